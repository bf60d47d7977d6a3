"""What every method found must hold. A new method is under these tests by being there."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from bench.core.errors import UserError
from bench.core.files import dumps
from bench.data.dataset import Prepared
from bench.data.tensors import Data, load
from bench.evaluation.metrics import EvaluationContext, compute_metrics
from bench.experiment.presets import load_preset, preset_names
from bench.experiment.worker import load_trained, run_cell
from bench.models.distributions import Gaussian
from bench.training import registry
from bench.training.context import TrainingContext
from bench.training.expressions import parse_methods
from bench.training.factory import build_from_config
from tests.conftest import MODEL, TEXT_MODEL, TEXT_TOY, TOY, TRAIN, assert_equal_weights, planner, trainers

METHODS = registry.method_names()
PARTS = {"schedule": "anneal", "kl_term": "free_bits(target=50.0,placement=total_example)"}
ATTACHED = [(name, kind) for name in METHODS for kind in PARTS if kind not in registry.method(name).incompatible_with]
MOVED = {"control_vae": "control_vae(target=0.001)", "free_bits": "free_bits(target=0.0)"}  # else constant
REFUSED = [(name, kind) for name in METHODS for kind in registry.method(name).incompatible_with]
STATEFUL = ["vae", "sa_vae(steps=2)", "aggressive", "bn_vae", "geco", "pretrained_free_bits", "mdr", "aae"]


@dataclass
class Toy:
    """What the tests need of a modality: data, planned cells, their tasks, trainers."""

    prepared: Prepared
    planned: Callable
    task: Callable
    trainer: Callable
    data: Data


@pytest.fixture
def toys(prepared, text_prepared, planned, text_planned, task, text_task, trainer, text_trainer):
    return {
        "image": Toy(prepared, planned, task, trainer, load(prepared, MODEL)),
        "text": Toy(text_prepared, text_planned, text_task, text_trainer, load(text_prepared, TEXT_MODEL)),
    }


def one(expression: str) -> str:
    """The modality in which a method is tested where one is enough: text, the faster one, if it may be."""
    return registry.method(expression.split("+")[0].split("(")[0]).modalities[-1]


def light(name: str) -> str:
    """The method with as few inner steps as the smallest preset has."""
    settings = registry.method(name).preset_overrides.get("quick", {})
    return f"{name}({','.join(f'{key}={value}' for key, value in settings.items())})" if settings else name


def weights(folder):
    return torch.load(folder / "best.pt", weights_only=True)["model"]


def unknown(q, prior) -> set[str]:
    """The metrics that cannot be given of a posterior and prior like these."""
    return {
        *([] if prior.kl_dim(q) is not None else ["au_kl", "collapsed_dims"]),
        *([] if isinstance(q, Gaussian) else ["au_ratio"]),
        *([] if q.has_density else ["nll", "nll_se", "nll_mc_se", "ess", "pareto_k", "ppl", "bpd"]),
        *([] if q.has_pairwise else ["mi", "mi_loo", "mi_high", "mi_batch", "kl_aggregate", "kl_aggregate_reverse"]),
        *([] if q.has_pairwise else ["collapsed"]),
    }


@pytest.mark.parametrize(
    ("name", "modality"), [(name, modality) for name in METHODS for modality in registry.method(name).modalities]
)
def test_trains_and_evaluates(name, modality, toys):
    toy = toys[modality]
    cell = toy.planned(light(name))
    run_cell(toy.task(cell))
    result, evaluation, history = cell.folder.result(), cell.folder.evaluation(), cell.folder.history()
    assert result["status"] == "ok", result.get("traceback")
    assert evaluation is not None, result.get("evaluation_failure")
    assert result["updates"] == TRAIN.epochs * TRAIN.epoch_updates == history[-1]["update"]
    assert len(history) == TRAIN.epochs and result["flops"] > 0
    method, model, _ = load_trained(cell.folder, cell.config)
    metrics, lacking = evaluation["metrics"], set()
    if method.latent:
        _, (x,) = toy.data.blocks("test", 2, 2)
        q = method.posterior(EvaluationContext(model.eval(), toy.data.info, TRAIN, 0), x, train=False)
        lacking = unknown(q, model.prior) & metrics.keys()
        assert {name for name, value in metrics.items() if value is None or not math.isfinite(value)} == lacking
    assert math.isfinite(metrics["nll_refined"])
    assert metrics["elbo"] == pytest.approx(-metrics["rec"] - (metrics["kl"] or 0))


@pytest.mark.parametrize(("name", "kind"), ATTACHED)
def test_what_is_attached_changes_training(name, kind, toys, tmp_path):
    """A method that does not refuse a schedule, or a form of the KL term, makes use of it."""
    ends = []
    alone = MOVED.get(name, light(name))
    for folder, expression in (("alone", alone), ("attached", f"{alone}+{PARTS[kind]}")):
        run = toys[one(name)].trainer(expression, tmp_path / folder)
        run.run()
        ends.append(torch.cat([p.detach().flatten() for p in run.model.decoder.parameters()]))
    assert ends[1].isfinite().all()
    assert not torch.equal(*ends), "no effect: the method refuses it, with a reason, or is MOVED to where it has one"


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(name, kind):
    with pytest.raises(UserError, match=f"makes no sense: {re.escape(registry.method(name).incompatible_with[kind])}"):
        parse_methods([f"{name}+{PARTS[kind]}"], "quick")


@pytest.mark.parametrize("name", METHODS)
def test_a_modality_that_it_does_not_fit_is_skipped_with_the_reason(name, toys):
    method = registry.method(name)
    for modality, toy in toys.items():
        reason = method.skip(toy.prepared.info)
        assert (reason is None) == (modality in method.modalities)
        assert toy.planned(name).status == ("skipped" if reason else "missing") and reason != ""


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("name", METHODS)
def test_its_settings_and_optimiser_of_every_preset_leave_losses_finite(
    name, preset, prepared, text_prepared, tmp_path
):
    """Two updates, on a toy model; where the settings are those of another preset that was tried, nothing is new."""
    for data in (prepared, text_prepared):
        modality = data.info.modality
        if modality not in registry.method(name).modalities:
            continue
        toy = {"image": TOY, "text": TEXT_TOY}[modality]
        sizes = {"epochs": 2, "epoch_updates": 1, "batch_size": 10, "val_examples": 20, "lag_examples": 0}
        train = replace(load_preset(preset, modality).train, **sizes)
        tiny = replace(toy, name=preset, train=train)
        run = trainers(planner(data, tiny, tmp_path / modality), data, tiny)(name, tmp_path / modality)
        assert math.isfinite(run.run().train_seconds) and math.isfinite(run.history[-1].train_loss)


@pytest.mark.parametrize("name", METHODS)
def test_says_what_it_is(name):
    cls = registry.method(name)
    assert cls.summary and cls.citation
    doc = __import__(cls.__module__, fromlist=["_"]).__doc__
    assert doc and doc.strip(), "a method's file says in its docstring what it computes"
    json.loads(dumps(cls.settings()))


@pytest.mark.parametrize("name", METHODS)
def test_posterior_has_the_shapes_of_the_contract(name, toys):
    toy = toys[one(name)]
    method, model, seed = build_from_config(toy.planned(name).config)
    ctx = EvaluationContext(model.eval(), toy.data.info, TRAIN, seed)
    _, (x,) = toy.data.blocks("val", 5, 5)
    q = method.posterior(ctx, x, train=False)
    z = q.rsample(2, ctx.generator())
    assert q.mean.shape == (5, model.latent_dim) and z.shape == (5, 2, model.latent_dim)
    if q.has_density:
        assert q.log_prob(z).shape == (5, 2)
    if q.has_pairwise:
        assert q.pairwise_log_prob(z[:, 0]).shape == (5, 5)
    assert model.prior.log_prob(z).shape == (5, 2)


@pytest.mark.parametrize("name", METHODS)
def test_neutral_setting_is_the_basic_vae_bit_for_bit(name, toys, tmp_path):
    neutral = registry.method(name).vae_settings
    if isinstance(neutral, str):
        assert len(neutral) > 10, "the reason why there is no neutral setting"
        return
    settings = ",".join(f"{key}={value}" for key, value in neutral.items())
    for folder, expression in (("neutral", f"{name}({settings})"), ("basic", "vae")):
        toys[one(name)].trainer(expression, tmp_path / folder).run()
    assert_equal_weights(weights(tmp_path / "neutral"), weights(tmp_path / "basic"))


class Killed(BaseException):
    """Ends training where no handler looks."""


@pytest.mark.parametrize(
    ("expression", "modality", "at"),
    [(light(name), one(name), 7) for name in METHODS]
    + [(name, "image", 2) for name in [*STATEFUL, "aggressive(patience=1)+anneal"]],
)
def test_resumes_bit_for_bit(expression, modality, at, toys, tmp_path, monkeypatch):
    """Killed within an epoch or further on, it ends as if it had never stopped."""
    trainer = toys[modality].trainer
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)  # a checkpoint after every update
    whole = trainer(expression, tmp_path / "whole")
    expected = whole.run()

    update = TrainingContext.update

    def die(self, *args, **options):
        if self.step == at:
            raise Killed
        return update(self, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainingContext, "update", die)
        trainer(expression, tmp_path / "killed").run()
    again = trainer(expression, tmp_path / "killed")
    result = again.run()
    assert result.resumes == 1 and result.updates == expected.updates
    assert result.events == expected.events and result.flops == expected.flops
    assert_equal_weights(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert_equal_weights(again.model.state_dict(), whole.model.state_dict())
    for mine, other in zip(again.history, whole.history, strict=True):
        assert mine.model_copy(update={"seconds": 0}) == other.model_copy(update={"seconds": 0})


@pytest.mark.parametrize("name", METHODS)
def test_state_survives_a_round_trip(name, toys, tmp_path):
    trainer = toys[one(name)].trainer
    run = trainer(light(name), tmp_path)
    run.run()
    state = run.method.state_dict()
    torch.save(state, tmp_path / "state.pt")
    other = trainer(light(name), tmp_path / "other")
    other.method.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.method.state_dict() == state


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_does_not_depend_on_the_chunk(name, toys):
    toy = toys[one(name)]
    method, model, seed = build_from_config(toy.planned(name).config)
    ctx = EvaluationContext(model, toy.data.info, TRAIN, seed)
    _, blocks = toy.data.blocks("test", 20, 10)
    small, large = (compute_metrics(method, ctx, blocks, 6, chunk) for chunk in (10, 60))
    for key, value in small.metrics.items():
        assert large.metrics[key] == (
            value if value is None else pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True)
        ), key


def test_methods_of_a_comparison_start_alike(planned, prepared):
    """Initial weights do not depend on the method where the architecture is the same."""
    models = [
        build_from_config(planned(e).config)[1] for e in ("vae", "beta_vae", "aggressive", "sa_vae", "vae+anneal")
    ]
    for model in models[1:]:
        assert_equal_weights(model.state_dict(), models[0].state_dict())
    alone = build_from_config(planned("autoregressive").config)[1].decoder.state_dict()
    whole = models[0].decoder.state_dict()
    assert_equal_weights(alone, {name: whole[name] for name in alone})
    assert load(prepared, MODEL).fingerprint == prepared.info.fingerprint


def test_kl_annealing_is_vae_with_the_schedule_attached(trainer, tmp_path):
    for folder, expression in (("own", "kl_annealing"), ("attached", "vae+anneal")):
        trainer(expression, tmp_path / folder).run()
    assert_equal_weights(weights(tmp_path / "own"), weights(tmp_path / "attached"))


def test_every_suite_can_be_planned():
    for suite in registry.suites():
        rows, _ = parse_methods([suite], "quick")
        assert rows
    assert [row.expression for row in parse_methods(["core"], "quick")[0]] == [
        "autoregressive", "vae", "kl_annealing", "beta_vae(beta=0.4)", "sa_vae", "aggressive",
    ]  # fmt: skip
    assert [row.expression for row in parse_methods(["paper"], "paper")[0]] == [
        "autoregressive", "vae", "vae+anneal",
        "beta_vae(beta=0.2)", "beta_vae(beta=0.4)", "beta_vae(beta=0.6)", "beta_vae(beta=0.8)",
        "sa_vae", "sa_vae+anneal", "aggressive", "aggressive+anneal",
    ]  # fmt: skip
