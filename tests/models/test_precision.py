"""Precision of the networks: what stays in full, what stays close, what a cell and a table say of it."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from bench.cli.main import main as bench_main
from bench.core.errors import UserError
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.estimators.mutual_information import sample_log_probs
from bench.evaluation.record import EvaluationRecord
from bench.experiment.factory import build_from_config
from bench.experiment.plan import identify
from bench.experiment.queries import evaluation_of_preset
from bench.experiment.worker import run_cell
from bench.models.precision import autocast, no_autocast
from bench.run import main
from bench.training.trainer import Trainer
from tests.conftest import TEXT_TOY, TOY, assert_equal_weights, planner, tasks


@pytest.fixture(params=["image", "text"])
def toy(request, prepared, text_prepared):
    """(preset, prepared data) of a modality."""
    return (TOY, prepared) if request.param == "image" else (TEXT_TOY, text_prepared)


def trained(make, preset, folder, expression: str, precision: str) -> Trainer:
    run = make(expression, folder / precision, replace(preset.train, precision=precision))
    run.run()
    return run


@pytest.fixture
def make(request, toy):
    return request.getfixturevalue("trainer" if toy[0] is TOY else "text_trainer")


def test_what_is_made_of_the_networks_stays_in_full(make, toy, tmp_path):
    run = make("vae", tmp_path)
    run.model.eval()
    x = run.ctx.next_main_batch()
    with autocast(run.model, "bfloat16"):
        assert run.model.features(x).dtype == torch.bfloat16
        q = run.model.encode(x)
        z = q.rsample(2)
        log_px = run.model.log_prob(x, z)
        log_q = sample_log_probs([q], z[:, 0]).own
    assert {t.dtype for t in (q.mean, q.logvar, z, log_px, run.model.prior.kl(q))} == {torch.float32}
    assert log_q.dtype == torch.float64 and torch.allclose(log_q, q.log_prob(z)[:, 0].double(), atol=1e-4)
    exact = run.model.log_prob(x, z)
    assert not torch.equal(log_px, exact), "nothing was rounded"
    assert torch.allclose(log_px, exact, rtol=1e-2)
    with autocast(run.model, "bfloat16"), no_autocast("cpu"):
        assert torch.equal(run.model.log_prob(x, z), exact)
    assert not run.model.head._forward_hooks and not run.model.head._forward_pre_hooks


@pytest.mark.parametrize("expression", ["vae", "sa_vae(steps=2)", "aggressive"])
def test_training_stays_close_and_parameters_in_full(make, toy, tmp_path, expression):
    """A product rounds its factors to eight bits, at most 1 part in 256 each; over the sum of a layer, the pixels or
    words of an example and the examples of a batch these errors mostly cancel, so a hundredth is ample for losses."""
    whole, rounded = (trained(make, toy[0], tmp_path, expression, name) for name in ("float32", "bfloat16"))
    assert whole.history != rounded.history
    for one, other in zip(whole.history, rounded.history, strict=True):
        assert math.isclose(one.train_loss, other.train_loss, rel_tol=0.01)
        for name in ("elbo", "rec"):
            assert math.isclose(one.metrics[name], other.metrics[name], rel_tol=0.01), name
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in rounded.model.parameters() if p.grad is not None)
    states = [value for o in rounded.ctx.optimisers.values() for s in o.state.values() for value in s.values()]
    assert {t.dtype for t in states if isinstance(t, torch.Tensor)} <= {torch.float32}
    assert rounded.ctx.flops_by_kind == whole.ctx.flops_by_kind


@pytest.mark.parametrize("expression", ["vae", "sa_vae(steps=2)"])
def test_a_stopped_training_goes_on_bit_for_bit(make, toy, tmp_path, expression):
    train = replace(toy[0].train, precision="bfloat16")
    whole = make(expression, tmp_path / "whole", train)
    whole.run()
    stopped = make(expression, tmp_path / "stopped", train)

    def stop(history):
        raise KeyboardInterrupt

    stopped.report = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again = make(expression, tmp_path / "stopped", train)
    again.run()
    assert again.state.resumes == 1
    assert_equal_weights(again.model.state_dict(), whole.model.state_dict())


def test_identities_in_float32_stay_and_others_are_of_their_own(planned):
    config = planned("vae").config
    assert config["precision"] == config["train"]["precision"] == "float32"
    older = {**config, "train": {key: value for key, value in config["train"].items() if key != "precision"}}
    assert identify(older) == identify(config)
    reduced = planned("vae", replace(TOY.train, precision="bfloat16")).config
    assert reduced["precision"] == "bfloat16" and reduced["cell_id"] != config["cell_id"]


def test_only_another_precision_makes_an_evaluation_lack_something():
    config = EvaluationConfig(metrics=())
    record = EvaluationRecord(settings=config.basic, metrics={}, seconds=1.0, chunk=1)
    assert not config.missing(record)
    rounded = replace(config, precision="bfloat16")
    assert rounded.missing(record) == ("basic",)


def test_a_cell_is_judged_in_full_unless_asked_otherwise(toy, tmp_path, monkeypatch):
    preset, prepared = toy
    monkeypatch.setenv("BENCH_CACHE", str(prepared.path.parent))
    cell = planner(prepared, preset, tmp_path / "out")("vae", replace(preset.train, precision="bfloat16"))
    run_cell(tasks(prepared)(cell))
    exact = cell.folder.evaluation()
    assert cell.folder.result().status == "ok" and exact.settings.precision == "float32"
    assert evaluation_of_preset(cell.folder, {}, None).precision == "float32"
    arguments = [str(tmp_path / "out"), "--metrics", "latent_use", "--executor", "local"]
    assert bench_main(["evaluate", *arguments, "--set", "evaluation.precision=bfloat16"]) == 0
    rounded = cell.folder.evaluation()
    assert rounded.settings.precision == "bfloat16" and rounded.groups.keys() == exact.groups.keys()
    for name in ("nll", "nll_refined"):
        one, other = exact.metrics[name], rounded.metrics[name]
        assert one != other and math.isclose(one, other, rel_tol=0.01)
    assert bench_main(["evaluate", *arguments, "--set", "evaluation.precision=float32"]) == 0
    assert cell.folder.evaluation().metrics == exact.metrics


def test_tf32_is_refused_on_a_cpu(planned, prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    _, model, _ = build_from_config(planned("vae").config)
    with pytest.raises(UserError, match="on a CPU"), autocast(model, "tf32"):
        pass
    for section in ("train", "evaluation"):
        arguments = ["--methods", "vae", "--device", "cpu", "--dry-run", "--set", f"{section}.precision=tf32"]
        assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
        assert capsys.readouterr().err.startswith("error: precision tf32 is arithmetic of GPUs")


def test_a_dry_run_plans_other_precisions(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    arguments = ["--methods", "vae", "--device", "cpu", "--dry-run", "--set", "train.precision=bfloat16"]
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 0
    assert "to run: runs/glyphs/quick/vae/seed-0-" in capsys.readouterr().out


def test_settings_are_those_there_are():
    with pytest.raises(ValueError, match="'precision' is one of float32, tf32, bfloat16, not 'float16'"):
        EvaluationConfig(precision="float16")
    assert asdict(TOY.train)["precision"] == "float32"
