"""The trainer: selection, decay, stopping, failures; and the rules of aggressive training."""

import math
from dataclasses import replace

import pytest
import torch

from bench.core.presets import load_preset
from bench.core.schedules import Constant, Cyclical, Linear
from bench.experiment.worker import run_cell
from bench.method import Method, Phase
from bench.training import registry
from bench.training.context import Batches
from bench.training.trainer import NonFiniteLoss, Trainer
from tests.conftest import TRAIN


def with_validation(monkeypatch, elbos):
    """Make validation report these ELBOs, one after the other."""
    values = iter(elbos)
    monkeypatch.setattr(
        "bench.training.trainer.validate", lambda *_: {"elbo": next(values), "mi": 1.0, "mi_batch": 1.0}
    )


def test_decays_go_back_to_the_best_weights_and_training_stops_when_used_up(trainer, tmp_path, monkeypatch):
    with_validation(monkeypatch, [-10, -9, -11, -12, -13, -14, -15, -16])
    config = replace(TRAIN, epochs=8, patience=2, max_decays=2)
    run = trainer("vae", tmp_path, config)
    result = run.run()
    assert result["stopped_by"] == "decays" and result["best_update"] == 8
    assert [line["selected"] for line in run.history] == [True, True, False, False, False, False]
    assert [line["lr"] for line in run.history] == pytest.approx([1e-3] * 4 + [5e-4] * 2), (
        "the rate at which it trained"
    )
    best = torch.load(tmp_path / "best.pt", weights_only=True)["model"]
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, best[name]), "the last decay leaves the best weights"


def test_a_decay_renews_the_optimisers_and_keeps_the_methods_state(trainer, tmp_path, monkeypatch):
    with_validation(monkeypatch, [-1, -2, -3])
    run = trainer("aggressive", tmp_path, replace(TRAIN, patience=2))
    run.run()
    assert run.state["decays"] == 1 and run.state["lr"] == 5e-4
    assert all(not optimiser.state for optimiser in run.ctx.optimisers.values())
    assert run.ctx.encoder_updates > 0


def test_nothing_is_selected_while_the_weight_is_below_one(trainer, tmp_path, monkeypatch):
    with_validation(monkeypatch, [-1, -2, -3])
    run = trainer("vae+anneal", tmp_path, replace(TRAIN, ramp=0.5))
    run.run()
    assert [line["selected"] for line in run.history] == [False, True, False]
    assert run.history[0]["beta"] < 1 == run.history[1]["beta"]


def test_without_a_selection_the_last_weights_are_kept(trainer, tmp_path, monkeypatch):
    with_validation(monkeypatch, [-1, -2, -3])
    run = trainer("vae+anneal", tmp_path, replace(TRAIN, ramp=1.0))
    assert run.run()["best_update"] is None
    best = torch.load(tmp_path / "best.pt", weights_only=True)["model"]
    assert all(torch.equal(value, best[name]) for name, value in run.model.state_dict().items())


class TwoPhases(Method):
    name = "two_phases"

    def phases(self):
        return Phase("first", 0.5), Phase("second", 0.5)


def in_two_phases(run):
    run.method = run.ctx.method = TwoPhases()
    run.phases = list(run.method.phases())
    return run


def test_phases_share_the_budget_and_start_with_fresh_optimisers(trainer, tmp_path):
    run = in_two_phases(trainer("vae", tmp_path, replace(TRAIN, epochs=4)))
    started = []
    run.method.on = lambda event, ctx: started.append((ctx.phase.name, ctx.step)) if event == "phase_start" else None
    result = run.run()
    assert started == [("first", 0), ("second", 8)]
    assert [line["phase"] for line in run.history] == ["first"] * 2 + ["second"] * 2
    assert result["updates_by_kind"] == {"first: encoder+decoder": 8, "second: encoder+decoder": 8}


def test_before_validation_normalisation_is_by_averages_under_the_weights_of_that_moment(trainer, tmp_path):
    run = trainer("bn_vae(gamma=0.6)", tmp_path)
    events = []
    run.method.on = lambda event, ctx, on=run.method.on: (events.append(event), on(event, ctx))
    run.run()
    assert events[-3:] == ["after_step", "before_validation", "epoch_end"]
    head, others = run.model.head, {k: v.clone() for k, v in run.model.state_dict().items() if "head.mean" not in k}
    head.mean.running_mean.fill_(7.0)  # as after a training that has moved on
    run.method.on_validation_start(run.ctx)
    assert run.model.training and all(
        torch.equal(value, run.model.state_dict()[name]) for name, value in others.items()
    )
    q = run.model.eval().encode(torch.cat([run.ctx.next_batch() for _ in range(64)]))
    assert (q.mean.mean(0) - head.shift).abs().max() < 0.1
    assert q.mean.std(0).sub(0.6).abs().max() < 0.1


@pytest.mark.parametrize("selection_metric, best, decays", [("elbo", 4, 3), ("loss", 16, 0), (None, None, 0)])
def test_a_phase_is_judged_by_what_it_says(selection_metric, best, decays, trainer, tmp_path, monkeypatch):
    values = iter([(-1.0, 9.0), (-2.0, 8.0), (-3.0, 7.0), (-4.0, 6.0)])  # ELBO and loss, say of a KL that rises
    seen = ({"elbo": elbo, "loss": loss, "mi": 1.0, "mi_batch": 1.0} for elbo, loss in values)
    monkeypatch.setattr("bench.training.trainer.validate", lambda *_: next(seen))
    run = trainer("vae", tmp_path, replace(TRAIN, epochs=4, patience=1, max_decays=9))
    run.phases = [Phase(selection_metric=selection_metric)]
    assert run.run()["best_update"] == best
    assert run.state["decays"] == decays


def test_decays_that_are_used_up_end_the_phase_not_the_run(trainer, tmp_path, monkeypatch):
    with_validation(monkeypatch, [-1, -2, -3, -1, -2, -3, -4, -5])
    run = in_two_phases(trainer("vae", tmp_path, replace(TRAIN, epochs=8, patience=1, max_decays=2)))
    result = run.run()
    assert [line["phase"] for line in run.history] == ["first"] * 3 + ["second"] * 3
    assert result["stopped_by"] == "decays" and result["best_update"] == 16


def test_resumes_after_a_decay_as_if_never_stopped(trainer, tmp_path, monkeypatch):
    elbos = [-1.0, -2.0, -1.5, -0.5, -3.0, -4.0]
    config = replace(TRAIN, epochs=6, patience=2, max_decays=3)
    with_validation(monkeypatch, elbos)
    whole = trainer("vae", tmp_path / "whole", config)
    whole.run()
    with_validation(monkeypatch, elbos[:4])
    with pytest.raises(StopIteration):
        trainer("vae", tmp_path / "stopped", config).run()
    with_validation(monkeypatch, elbos[4:])
    again = trainer("vae", tmp_path / "stopped", config)
    again.run()
    assert (again.state["decays"], again.state["resumes"]) == (whole.state["decays"], 1)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name])


def test_draws_outside_an_update_are_functions_of_the_step(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    drawn = []

    class Draws(Method):
        def step(self, ctx, x):
            drawn.append(torch.rand((), generator=ctx.generator("mine")).item())
            return super().step(ctx, x)

    run.method = run.ctx.method = Draws()
    run.run()
    run.ctx.reseed_streams("outside updates", 5)
    assert torch.rand((), generator=run.ctx.generator("mine")).item() == drawn[5] and len(set(drawn)) == len(drawn)


class Diverges(Method):
    name = "diverges"

    def loss(self, ctx, terms):
        return super().loss(ctx, terms) * (math.nan if ctx.step == 6 else 1)


def test_a_loss_that_is_not_finite_ends_training_and_says_where(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    run.method = run.ctx.method = Diverges()
    with pytest.raises(NonFiniteLoss, match=r"at update 7 of diverges: loss nan, β 1, lr 0.001, elbo -\d"):
        run.run()


def test_a_failed_cell_keeps_its_traceback_is_tried_again_and_may_succeed(planned, task, monkeypatch):
    cell = planned("vae")
    calls = []

    def fail(self):
        calls.append(1)
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", fail)
        run_cell(task(cell))
    result = cell.folder.result()
    assert (result["status"], result["reason"], len(calls)) == ("failed", "RuntimeError: no luck", 2)
    assert "in fail" in result["traceback"]
    run_cell(task(cell, run="the next"))
    assert cell.folder.result()["status"] == "ok" and cell.folder.evaluation()


def test_a_failed_evaluation_leaves_the_training_alone(planned, task, monkeypatch):
    cell = planned("vae")
    with monkeypatch.context() as patch:
        patch.setattr("bench.experiment.worker.evaluate", lambda *_: 1 / 0)
        run_cell(task(cell))
    result = cell.folder.result()
    assert result["status"] == "ok" and "ZeroDivisionError" in result["evaluation_failure"]["reason"]
    stamp = (cell.folder.path / "best.pt").stat().st_mtime_ns
    run_cell(task(cell, run="the next"))
    assert cell.folder.evaluation() and (cell.folder.path / "best.pt").stat().st_mtime_ns == stamp


def test_a_torn_checkpoint_costs_one_step_back(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    run = trainer("vae", tmp_path / "one")
    whole = run.run()
    (tmp_path / "one" / "last.pt").write_bytes(b"torn")
    again = trainer("vae", tmp_path / "one")
    assert again.run()["updates"] == whole["updates"]
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name])


def test_batches_are_a_function_of_their_number(data):
    thirty = replace(TRAIN, batch_size=30)
    one, other = Batches(data, thirty, 5, "outer"), Batches(data, thirty, 5, "outer")
    assert one.per_pass == 3
    later = other[7]
    assert torch.equal(later, [one[i] for i in range(8)][7])
    assert not torch.equal(one[0], one[3]), "a new order and new noise for every pass"
    assert not torch.equal(one[0], Batches(data, thirty, 5, "drawn")[0])
    assert set(one[0].unique().tolist()) == {0.0, 1.0}


def test_frozen_groups_are_untouched_by_an_update(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    ctx, model = run.ctx, run.model.train()
    ctx.new_optimisers(1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = ctx.next_main_batch()
    ctx.update(lambda: run.method.objective(ctx, x), groups=["encoder"])
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"features", "head"}
    assert all(p.grad is None for p in model.decoder.parameters()) and all(p.requires_grad for p in model.parameters())
    assert (ctx.encoder_updates, ctx.step) == (1, 0)


def test_clipping_looks_at_the_groups_that_are_stepped(trainer, tmp_path):
    run = trainer("vae", tmp_path, replace(TRAIN, clip=1e-3, optimiser="sgd"))
    ctx = run.ctx
    ctx.new_optimisers(1.0)
    encoder = run.model.parameter_groups()["encoder"]
    before = [p.detach().clone() for p in encoder]
    x = ctx.next_main_batch()
    ctx.update(lambda: run.method.objective(ctx, x), groups=["encoder"])
    moved = math.sqrt(sum((p - b).square().sum().item() for p, b in zip(encoder, before, strict=True)))
    assert moved == pytest.approx(1e-3, rel=1e-3)


# -- aggressive training -------------------------------------------------------------------------------------------


class Recorded:
    """A context that only counts: update losses are given, batches are numbers."""

    def __init__(self, losses, modality="image", left=math.inf):
        self.losses, self.left = iter(losses), left
        self.groups, self.batches, self.events = [], [], []
        self.step, self.train = 0, replace(TRAIN, mi_rule="mi_batch")
        self.data = type("Data", (), {"modality": modality})
        self.val = {}

    def update(self, objective, groups=None):
        self.groups.append(groups)
        return torch.tensor(float(next(self.losses)))

    def num_tokens(self, x):
        return len(x)

    def next_batch(self):
        self.batches.append("drawn")
        return "drawn"

    def encoder_updates_left(self):
        return self.left

    def log_event(self, text):
        self.events.append(text)


def aggressive(**settings):
    cls = registry.method("aggressive")
    return cls(cls.Config(**settings))


@pytest.mark.parametrize(("modality", "window"), [("image", 10), ("text", 15)])
def test_inner_loop_stops_when_a_window_is_worse_than_the_one_before(modality, window):
    ctx = Recorded([5] * window + [4] * window + [6] * window + [0], modality)
    aggressive().step(ctx, "x")
    assert ctx.groups == [["encoder"]] * (3 * window) + [["decoder"]]
    assert len(ctx.batches) == 3 * window - 1, "the first inner update is on the current batch"


def test_inner_loop_stops_after_99_updates():
    ctx = Recorded(range(1000, 0, -1))
    aggressive().step(ctx, "x")
    assert ctx.groups == [["encoder"]] * 99 + [["decoder"]]


def mi_over_epochs(method, ctx, values):
    """The epoch after which aggressive training is off, or None."""
    for epoch, mi in enumerate(values, start=1):
        ctx.val = {"mi_batch": mi}
        method.on_epoch_end(ctx)
        if not method.on_now:
            return epoch
    return None


def test_mi_rule_on_images_counts_five_epochs_below_the_best_without_going_back():
    values = [1.0, 0.9, 1.1, 1.0, 1.2, 1.1, 1.3, 1.2, 1.4, 1.3]
    assert mi_over_epochs(aggressive(), Recorded([]), values) == 10
    assert mi_over_epochs(aggressive(reset=True), Recorded([]), values) is None


def test_mi_rule_on_text_ends_with_the_first_fall():
    ctx = Recorded([], "text")
    assert mi_over_epochs(aggressive(), ctx, [0.1, 0.2, 0.19, 0.3]) == 3
    assert ctx.events == ["aggressive training ended after 0 updates: validation MI stopped rising"]


def test_the_presets_cap_ends_it_and_training_goes_on_jointly():
    ctx = Recorded([1, 1], left=0)
    method = aggressive()
    method.step(ctx, "x")
    assert ctx.groups == [None] and not method.on_now and "cap" in ctx.events[0]


# -- schedules -----------------------------------------------------------------------------------------------------


def test_linear_schedule_rises_from_its_start_over_the_ramp():
    weight = [Linear().weight(step, 100, 0.5) for step in range(101)]
    assert weight[0] == pytest.approx(0.1) and weight[25] == pytest.approx(0.55)
    assert weight[49] < 1 and weight[50:] == [1.0] * 51
    assert Linear(start=1.0).weight(0, 100, 0.5) == 1.0
    assert Linear(ramp=0.1).weight(10, 100, 0.5) == 1.0
    assert Constant().weight(3, 100, 0.5) == 1.0


def test_cyclical_schedule_repeats_its_ramp_and_ends_at_one():
    weight = [Cyclical(cycles=4, ratio=0.5).weight(step, 400, 0.1) for step in range(401)]
    assert weight[0] == weight[100] == weight[300] == 0.0
    assert weight[25] == pytest.approx(0.5) and weight[50] == weight[99] == weight[400] == 1.0


def test_papers_ramp_is_ten_epochs():
    train = load_preset("paper", "image").train
    assert train.ramp * train.epochs == pytest.approx(10)
