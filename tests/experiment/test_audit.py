"""The doubling audit on constructed cells: what is trained again, which cells are chosen, and when one passes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.modifiers import SCHEDULES
from bench.experiment.audit import Audit, choose, doubled, summarise, unconverged
from bench.experiment.schema import Component, identify
from bench.reporting.frame import cells_frame
from bench.reporting.notes import convergence_remarks
from tests.fixtures import make_cells
from tests.fixtures.make_cells import TRAIN
from tests.reporting.records import finished_cell

UPDATES, EPOCHS = TRAIN.epoch_updates, TRAIN.epochs


def cell(values=(-50.0,), encoder_updates=(), seed=0, **changes):
    """A cell with one validation per epoch."""
    history = [{"update": UPDATES * (i + 1), "elbo": value} for i, value in enumerate(values)]
    for line, count in zip(history, encoder_updates, strict=False):
        line["encoder_updates"] = count
    return finished_cell("vae", seed, history=history, **changes)


def test_updates_double_at_the_undecayed_rate():
    original = cell([-50.0] * 7, train=replace(TRAIN, decay_from=2, extra_updates_until=0.75, ramp=0.3))
    config = doubled(original)
    wanted = replace(original.config.train, epochs=2 * EPOCHS, decay_from=7, extra_updates_until=0.375, ramp=0.15)
    assert config.train == wanted and config.cell_id == identify(config) != original.config.cell_id
    assert config.preset_notes[:-1] == original.config.preset_notes


@pytest.mark.parametrize(
    ("name", "settings"), [("anneal", {"start": 0.1, "ramp": 0.3}), ("anneal", {"ramp": None}), ("cyclical", {})]
)
def test_kl_weight_rises_as_before(name, settings):
    """The first cycles of the KL weight, or its warm-up, take as many updates as in the original."""
    before, total = SCHEDULES[name](**settings), EPOCHS * UPDATES
    original = cell()
    method = original.config.method.model_copy(update={"schedule": Component(name=name, settings=vars(before))})
    config = doubled(replace(original, config=original.config.model_copy(update={"method": method})))
    after = SCHEDULES[name](**config.method.schedule.settings)
    weights = [
        [schedule.weight(step, planned, train.ramp) for step in range(total)]
        for schedule, planned, train in ((before, total, TRAIN), (after, 2 * total, config.train))
    ]
    assert weights[0] == weights[1] and min(weights[0]) < 1


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ((9, 18, 18, 18), 0.75, 2 / 20),  # ended by the method's rule after two epochs
        ((9, 18, 18, 18), None, 2 / 20),
        ((9, 18, 27, 36), 0.75, 0.375),  # never ended
        ((9, 18, 27, 36), None, None),
        ((0, 0, 0, 0), 0.75, 0.375),
    ],
)
def test_encoder_updates_end_as_before(counts, limit, expected):
    original = cell([-50.0] * 4, counts, train=replace(TRAIN, extra_updates_until=limit))
    assert doubled(original).train.extra_updates_until == expected


def test_choice_is_the_smallest_ids_of_each_preset():
    def stored(dataset, seed, **changes):
        return replace(cell(seed=seed, **changes), folder=Path("out/runs", dataset, "small", "vae", f"seed-{seed}"))

    many, other = [stored("a", seed) for seed in range(30)], stored("b", 0)
    limited, failed = stored("d", 0, costs={"limit_reached": True}), replace(stored("c", 0), evaluation=None)
    lost = replace(stored("e", 0), history=[])
    older = replace(other, config=other.config.model_copy(update={"protocol_version": 1, "cell_id": "0" * 12}))
    chosen = choose([*many, other, failed, limited, lost, older], 0.1)
    assert chosen == [*sorted(many, key=lambda each: each.config.cell_id)[:3], other]
    assert len(choose(many, 0.11)) == 4 and len(choose(many, 1)) == 30


COLLAPSED = {"metrics": {"collapsed": True}}


def test_families_take_turns_and_controls_are_last():
    """Each of four families gives a cell of another row before one gives the second of a row."""

    def stored(method, seed):
        record = make_cells.method(method, 1, family=FAMILIES[method])
        made = replace(cell(seed=seed), folder=Path("out/runs/a/small", method, f"seed-{seed}"))
        config = made.config.model_copy(update={"method": record})
        return replace(made, config=config.model_copy(update={"cell_id": identify(config)}))

    cells = [stored(method, seed) for method in FAMILIES for seed in range(5)]
    order = choose(cells, 1)
    families = [each.config.method.family for each in order]
    assert sorted(families[:3]) == sorted(families[3:6]) == ["objective", "posterior", "prior"]
    assert families[-10:] == ["reference"] * 10 and len(order) == len(cells)
    objective = [each.config.method.name for each in order if each.config.method.family == "objective"]
    assert all({*objective[i : i + 3]} == {"a", "b", "g"} for i in range(0, 15, 3))
    assert choose(cells[::-1], 0.2) == order[:7]
    first = {name: next(each for each in order if each.config.method.name == name) for name in "fa"}
    assert choose(cells, 0.1, ["f", "a", "not here"]) == [*first.values()]


FAMILIES = {"c": "posterior", "d": "prior", **dict.fromkeys("abg", "objective"), **dict.fromkeys("ef", "reference")}

LAST = {"best_update": None}
CASES = {
    "equal": (cell(), cell(), True),
    "below the tolerance": (cell(), cell([-49.6]), True),
    "at the tolerance": (cell(), cell([-49.5]), False),
    "worse": (cell(), cell([-52.0]), True),
    "the best counts": (cell(), cell([-52.0, -49.0, -51.0]), False),
    "other verdict": (cell(**COLLAPSED), cell(), False),
    "collapsed twice": (cell(**COLLAPSED), cell(**COLLAPSED), True),
    "no z": (cell(metrics={"collapsed": None}), cell(metrics={"collapsed": None}), True),
    "another tolerance": (cell(train=replace(TRAIN, tolerance=2.0)), cell([-49.0]), True),
    "no criterion": (cell([]), cell(), False),
    "last weights kept": (cell(costs=LAST), cell([-40.0, -49.6], costs=LAST), True),
    "last weights kept, worse": (cell(costs=LAST), cell([-50.0, -52.0], costs=LAST), False),
}


@pytest.mark.parametrize("case", CASES)
def test_criterion_and_verdict_must_stay(case):
    before, after, passed = CASES[case]
    assert Audit(before, after).passed is passed


def test_cell_that_does_not_pass_has_not_converged():
    values = [-60.0, *[-50.0] * 9]
    cells = [cell(values, seed=seed) for seed in (0, 1)]
    audits = [Audit(cells[0], cell(values)), Audit(cells[1], cell(values, seed=1, **COLLAPSED))]
    frame = cells_frame(cells, audits)
    assert cells_frame(cells)["converged"].all() and [*frame["converged"]] == [1, 0]
    [remark] = convergence_remarks(frame)
    assert remark.endswith("seed 1 with twice the updates: gain 0.00 nats, now collapsed")


def test_audit_decides_where_the_last_updates_gained_too_much():
    values = [*range(-60, -50)]
    cells = [cell(values, seed=seed) for seed in (0, 1)]
    audits = [Audit(cells[0], cell([*values, -50.9])), Audit(cells[1], cell([*values, -50.1], seed=1))]
    assert unconverged([*cells, cell([-60.0, *[-50.0] * 9])]) == cells and not cells_frame(cells)["converged"].any()
    assert [*cells_frame(cells, audits)["converged"]] == [1, 0]


def test_summary_names_the_cells_that_do_not_pass():
    text = summarise([Audit(cell(), cell()), Audit(cell(seed=3, **COLLAPSED), cell([-49.0]))])
    assert "1 of 2 cells" in text and "vae seed 3" in text and "gain 1.00 nats, no longer collapsed" in text
    assert math.isnan(Audit(cell([]), cell([])).gain)
