"""Planned cells: their identity, folders and states."""

import time
from dataclasses import replace

import pytest

from bench.experiment import runtime_estimate
from bench.experiment.cell_folder import lock_cell
from bench.experiment.plan import FORCED, cell_state, plan, write_configs
from bench.experiment.schema import Status, identify
from bench.experiment.worker import run_cell
from bench.training import registry
from bench.training.expressions import parse_methods
from tests.conftest import EVALUATION, TOY, TRAIN


def cells(prepared, out, expression="vae", preset=TOY, seeds=1, base=0, data=None):
    rows, _ = parse_methods([expression], preset.name)
    return plan(rows, data or prepared.info, preset, seeds, base, "cpu", out)


def test_cell_id_depends_on_what_changes_numbers(prepared, tmp_path):
    def cell_id(**changes):
        return cells(prepared, tmp_path, **changes)[0].config.cell_id

    same = cell_id()
    assert cell_id(preset=replace(TOY, evaluation=replace(EVALUATION, iw_samples=7))) == same
    assert cell_id(preset=replace(TOY, notes=("a note",))) == same
    assert cell_id(preset=replace(TOY, train=replace(TRAIN, lag_examples=7))) == same, "only monitoring"
    assert cell_id(preset=replace(TOY, train=replace(TRAIN, tolerance=7.0))) == same, "used by reports only"
    assert cell_id(data=replace(prepared.info, source="elsewhere")) == same
    different = {
        cell_id(expression="beta_vae"),
        cell_id(expression="vae+anneal"),
        cell_id(base=1),
        cell_id(preset=replace(TOY, train=replace(TRAIN, lr=1e-4))),
        cell_id(preset=replace(TOY, model=replace(TOY.model, maps=3))),
        cell_id(data=replace(prepared.info, fingerprint="0" * 64)),
        cell_id(data=replace(prepared.info, name="other")),
        cells(prepared, tmp_path, seeds=2)[1].config.cell_id,
    }
    assert len(different) == 8 and same not in different


def test_a_methods_revision_is_part_of_the_cell_id(planned, monkeypatch):
    config = planned("vae").config
    monkeypatch.setattr(registry.method("vae"), "revision", 2)
    assert identify(planned("vae").config) != config.cell_id


def test_folder_names_suit_any_file_system(prepared, tmp_path):
    cell = cells(prepared, tmp_path, "sa_vae(steps=2,lr=0.1)+anneal(start=0.2)")[0]
    name = cell.folder.path.relative_to(tmp_path).as_posix()
    assert name.startswith("runs/toy/toy/sa_vae-steps=2-lr=0.1+anneal-start=0.2/seed-0-")
    assert not set(name) & set('()|*?<>:" ')


@pytest.fixture
def done(planned, task):
    """A trained and evaluated cell."""
    cell = planned("vae")
    run_cell(task(cell))
    return cell.folder


def test_states_of_a_cell(planned, task, done, monkeypatch):
    assert planned("beta_vae").status is Status.MISSING
    assert cell_state(done, EVALUATION).status is Status.DONE
    assert cell_state(done, EVALUATION, force=True).retrain_reason == FORCED
    more = cell_state(done, replace(EVALUATION, metrics=("convergence",)))
    assert (more.status, more.trained) == (Status.INCOMPLETE, True)
    result = done.result()
    for status, state in (("running", Status.INCOMPLETE), ("failed", Status.FAILED), ("skipped", Status.MISSING)):
        done.write_record("result.json", result.model_copy(update={"status": status, "reason": "why"}))
        assert cell_state(done, EVALUATION).status is state
    assert cell_state(done, EVALUATION).retrain_reason == ""


def test_damaged_records_are_trained_or_evaluated_again(done):
    (done.path / "evaluation.json").write_text("{")
    assert cell_state(done, EVALUATION).status is Status.INCOMPLETE
    (done.path / "result.json").write_text("{")
    state = cell_state(done, EVALUATION)
    assert state.status is Status.MISSING and state.retrain_reason.startswith("result.json is damaged: ")


@pytest.mark.parametrize("name", ["examples.parquet", "arrays.npz"])
def test_torn_arrays_are_measured_again(done, task, planned, name):
    stored = done.evaluation().metrics
    content = (done.path / name).read_bytes()
    (done.path / name).write_bytes(content[:-100])
    assert cell_state(done, EVALUATION).status is Status.INCOMPLETE and cell_state(done, EVALUATION).trained
    run_cell(task(planned("vae")))
    assert cell_state(done, EVALUATION).status is Status.DONE
    assert done.evaluation().metrics == stored and (done.path / name).stat().st_size == len(content)


def test_damaged_history_is_restored_from_the_checkpoint(done, task, planned):
    history, weights = done.history(), (done.path / "best.pt").read_bytes()
    (done.path / "history.jsonl").write_text("{\n")
    assert cell_state(done, EVALUATION).status is Status.INCOMPLETE
    run_cell(task(planned("vae")))
    assert done.history() == history and (done.path / "best.pt").read_bytes() == weights
    assert cell_state(done, EVALUATION).status is Status.DONE
    (done.path / "history.jsonl").write_text("{\n")
    (done.path / "last.pt").unlink()
    assert cell_state(done, EVALUATION).retrain_reason.startswith("history.jsonl is damaged: ")


def test_without_weights_only_other_basic_settings_retrain(done):
    (done.path / "best.pt").unlink()
    assert cell_state(done, replace(EVALUATION, metrics=("convergence",))).status is Status.DONE
    state = cell_state(done, replace(EVALUATION, iw_samples=7))
    assert state.status is Status.MISSING and "its weights are missing" in state.retrain_reason
    (done.path / "evaluation.json").unlink()
    assert "missing or damaged" in cell_state(done, EVALUATION).retrain_reason


def test_records_of_another_cell_do_not_count(planned, task, done):
    other = planned("beta_vae")
    run_cell(task(other))
    done.write_record("result.json", other.folder.result())
    state = cell_state(done, EVALUATION)
    assert state.retrain_reason == f"result.json is of another cell, {other.config.cell_id}"
    run_cell(task(planned("vae")))
    assert cell_state(done, EVALUATION).status is Status.DONE
    (backup,) = done.path.parent.glob("*bak-*")
    assert other.config.cell_id in (backup / "result.json").read_text("utf-8")


def test_folder_of_a_long_expression_can_be_created(prepared, tmp_path):
    number = "1.2345678901234567e-100"
    expression = (
        f"sa_vae(steps=3,lr={number},momentum={number},clip={number},difference={number},gradient=differences)"
        f"+free_bits(target={number})+anneal(start={number},ramp={number})"
    )
    [cell] = cells(prepared, tmp_path, expression)
    assert len(cell.variant.expression) > 255
    cell.folder.path.mkdir(parents=True)


def test_update_is_timed_as_on_an_idle_machine(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    autocast, calls = runtime_estimate.autocast, []

    def interrupted(*arguments):
        calls.append(time.sleep(0.1))  # as if another program had the core
        until = time.process_time() + 0.1
        while len(calls) <= 3 and time.process_time() < until:
            pass  # as if memory were allocated
        return autocast(*arguments)

    monkeypatch.setattr(runtime_estimate, "autocast", interrupted)
    assert 0 < runtime_estimate.seconds_per_update(TOY, prepared.info, "cpu", 1) < 0.1


def test_configs_of_cells_that_another_run_holds_are_left_to_it(planned):
    held, free = planned("vae"), planned("beta_vae")
    with lock_cell(held.folder.path):
        write_configs([held, free])
    assert not held.folder.path.exists() and free.folder.config == free.config


def test_config_of_a_finished_cell_is_kept(done, planned):
    cell = planned("vae")
    reworded = cell.config.model_copy(update={"preset_notes": ("new",)})
    write_configs([replace(cell, config=reworded)])
    assert cell.status is Status.DONE and done.config == cell.config
