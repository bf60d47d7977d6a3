"""The contract of a method, checked for every method in the registry.

Every method is trained once per worker, in its fastest modality; most tests read that cell. The slow tests cover the
other modality, all presets, and resuming and modifiers for all methods.
"""

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.core.citations import paper_links
from bench.core.config import ARCHITECTURES
from bench.core.errors import UserError
from bench.data.tensors import Data, load
from bench.evaluation.metrics import EvaluationContext, compute_metrics
from bench.experiment.factory import build_from_config, load_trained
from bench.experiment.plan import PlannedCell
from bench.experiment.presets import load_preset, preset_names
from bench.experiment.worker import run_cell
from bench.method import Method
from bench.models.distributions import Gaussian
from bench.models.vae import VAE
from bench.training import registry
from bench.training.context import TrainingContext
from bench.training.expressions import parse_methods
from bench.training.result import Validation
from tests.conftest import TEXT_TOY, TOY, TRAIN, VECTOR_TOY, assert_equal_weights, planner, tasks, trainers

METHODS = registry.method_names()
TOYS = {"image": TOY, "text": TEXT_TOY, "vector": VECTOR_TOY}
MODIFIERS = {"schedule": "anneal", "kl_term": "free_bits(target=50.0,placement=total_example)"}
WITH_VAE_SETTINGS = [name for name in METHODS if isinstance(registry.method(name).vae_settings, dict)]
#: One method each: plain objective, normalised posterior, inner optimisation, controlled encoder updates.
REPRESENTATIVES = ["beta_vae", "bn_vae", "sa_vae", "aggressive"]
#: One method each with another encoder, decoder, prior, posterior family, and additional network.
OTHER_NETWORKS = ["bn_vae", "skip_vae", "vamp_prior", "iaf_posterior", "aae"]
#: Methods with a state, a second optimiser, several phases or updates that depend on what was seen.
STATEFUL = ["vae", "sa_vae", "aggressive", "bn_vae", "geco", "pretrained_free_bits", "mdr", "aae"]
#: Parameters that no loss depends on: the encoder without amortised inference, biases of a gradient's potential.
UNUSED = {"svi": ("features.", "head."), "lidvae": ("across.bias",), "il_lidvae": ("across.bias",)}


def fastest_modality(name: str) -> str:
    """Text where the method supports it."""
    return "text" if "text" in registry.method(name).modalities else "image"


def quick(name: str) -> str:
    """The expression of a method with the settings of the smallest preset."""
    settings = registry.method(name).preset_overrides.get("quick", {})
    return f"{name}({','.join(f'{key}={value}' for key, value in settings.items())})" if settings else name


def with_vae_settings(name: str) -> str:
    return f"{name}({','.join(f'{key}={value}' for key, value in registry.method(name).vae_settings.items())})"


def best_weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "best.pt", weights_only=True)["model"]


def undefined_metrics(q, prior) -> set[str]:
    """Metrics that cannot be computed for this kind of posterior and prior."""
    return {
        *([] if prior.kl_dim(q) is not None else ["au_kl", "collapsed_dims"]),
        *([] if isinstance(q, Gaussian) else ["au_ratio"]),
        *([] if q.has_density else ["iw_nll", "iw_nll_se", "iw_nll_mc_se", "ess", "pareto_k", "ppl", "bpd"]),
        *([] if q.has_pairwise else ["mi", "mi_loo", "mi_high", "mi_batch", "kl_aggregate", "kl_aggregate_reverse"]),
        *([] if q.has_pairwise else ["collapsed"]),
    }


@dataclass(frozen=True)
class Cell:
    """A trained and evaluated toy cell."""

    planned: PlannedCell
    method: Method
    model: VAE
    data: Data

    @property
    def folder(self) -> Path:
        return self.planned.folder.path

    @property
    def ctx(self) -> EvaluationContext:
        return EvaluationContext(self.model.eval(), self.data.info, TRAIN, 0)


@pytest.fixture(scope="session")
def train_once(toy_data, tmp_path_factory) -> Callable[[str, str], Cell]:
    """``train_once(expression, modality)``: the cell, trained by the first test that asks for it."""
    folder = tmp_path_factory.mktemp("cells")

    @cache
    def train(expression: str, modality: str) -> Cell:
        data, preset = toy_data[modality], TOYS[modality]
        planned = planner(data, preset, folder)(expression)
        run_cell(tasks(data)(planned))
        result = planned.folder.result()
        assert result.status == "ok", result.traceback
        assert not result.failure, result.evaluation_failure.traceback
        method, model, _ = load_trained(planned.folder, planned.config)
        return Cell(planned, method, model, load(data, preset.model))

    return train


@pytest.fixture
def toy_trainer(toy_data, tmp_path):
    """``toy_trainer(expression, modality, folder)``: a trainer that has not run."""

    def create(expression: str, modality: str, folder: Path):
        data, preset = toy_data[modality], TOYS[modality]
        return trainers(planner(data, preset, tmp_path / "plan"), data, preset)(expression, folder)

    return create


def check_records(cell: Cell) -> None:
    folder = cell.planned.folder
    result, metrics, history = folder.result().training, folder.evaluation().metrics, folder.history()
    assert result.updates == TRAIN.epochs * TRAIN.epoch_updates == history[-1].update
    assert len(history) == TRAIN.epochs and result.flops > 0
    updated = {name for kind in result.updates_by_kind for name in kind.partition(": ")[2].split("+")}
    assert {*cell.method.param_groups(cell.model)} <= updated, "ctx.update must name every parameter group"
    if cell.method.latent:
        _, (x,) = cell.data.blocks("test", 2, 2)
        q = cell.method.posterior(cell.ctx, x, train=False)
        undefined = undefined_metrics(q, cell.model.prior) & metrics.keys()
        assert {key for key, value in metrics.items() if value is None or not math.isfinite(value)} == undefined
    assert math.isfinite(metrics["nll"]) and metrics["elbo"] == pytest.approx(-metrics["rec"] - (metrics["kl"] or 0))
    initial, trained = build_from_config(cell.planned.config)[1], dict(cell.model.named_parameters())
    same = [name for name, p in initial.named_parameters() if p.requires_grad and torch.equal(p, trained[name])]
    known = UNUSED.get(cell.method.name, ())
    assert not [name for name in same if not any(part in name for part in known)], "no loss depends on these parameters"


def check_posterior(cell: Cell) -> None:
    _, (x,) = cell.data.blocks("val", 5, 5)
    q = cell.method.posterior(cell.ctx, x, train=False)
    z = q.rsample(2, cell.ctx.generator())
    dim = cell.model.latent_dim
    assert q.mean.shape == (5, dim) and z.shape == (5, 2, dim)
    if q.has_density:
        assert q.log_prob(z).shape == (5, 2)
    if q.has_pairwise:
        assert q.pairwise_log_prob(z[:, 0]).shape == (5, 5)
    assert cell.model.prior.log_prob(z).shape == (5, 2)


def check_chunk_sizes(cell: Cell) -> None:
    _, blocks = cell.data.blocks("test", 20, 10)
    small, large = (
        {
            key: math.nan if value is None else value
            for key, value in compute_metrics(cell.method, cell.ctx, blocks, 6, chunk).metrics.items()
        }
        for chunk in (10, 60)
    )
    assert large == pytest.approx(small, rel=1e-5, abs=1e-5, nan_ok=True)


def check_state_round_trip(cell: Cell, file: Path) -> None:
    state = cell.method.state_dict()
    torch.save(state, file)
    method, _, _ = build_from_config(cell.planned.config)
    assert method.state_dict() != state, "training changes the state"
    method.load_state_dict(torch.load(file, weights_only=True))
    assert method.state_dict() == state


@pytest.mark.parametrize("name", METHODS)
def test_trains_and_evaluates(name, train_once, tmp_path, subtests):
    """Train a toy cell in the fastest modality of the method, and check the contract on it."""
    cell = train_once(quick(name), fastest_modality(name))
    with subtests.test("records"):
        check_records(cell)
    with subtests.test("posterior"):
        check_posterior(cell)
    with subtests.test("metrics do not depend on the chunk size"):
        check_chunk_sizes(cell)
    if registry.method(name).state_dict is not Method.state_dict:
        with subtests.test("state round trip"):
            check_state_round_trip(cell, tmp_path / "state.pt")


def test_methods_are_described(subtests):
    for name in METHODS:
        with subtests.test(method=name):
            method = registry.method(name)
            assert method.summary and method.citation and sys.modules[method.__module__].__doc__
            papers = [paper for paper in method.citation.split(";") if re.search(r"\b(19|20)\d\d\b", paper)]
            assert all(map(paper_links, papers)), "write the paper's identifier, as in (arXiv 1901.05534)"
            assert isinstance(method.vae_settings, dict) or len(method.vae_settings) > 10, "reason for no VAE settings"
            json.dumps(method.settings())


def test_methods_skip_other_modalities(toy_data, tmp_path, subtests):
    for name in METHODS:
        method = registry.method(name)
        for modality in ARCHITECTURES:
            with subtests.test(method=name, modality=modality):
                reason = method.skip(toy_data[modality].info, ARCHITECTURES[modality])
                assert (reason is None) == (modality in method.modalities) and reason != ""
                cell = planner(toy_data[modality], TOYS[modality], tmp_path)(name)
                assert cell.status == ("skipped" if reason else "missing")


@pytest.mark.parametrize("name", WITH_VAE_SETTINGS)
def test_vae_settings_equal_the_vae_bit_for_bit(name, train_once, toy_trainer, tmp_path):
    modality = fastest_modality(name)
    toy_trainer(with_vae_settings(name), modality, tmp_path).run()
    assert_equal_weights(best_weights(tmp_path), best_weights(train_once("vae", modality).folder))


def test_incompatible_modifiers_are_refused():
    for name in METHODS:
        cls = registry.method(name)
        for kind, reason in cls.incompatible_with.items() if not cls.same_as else ():
            with pytest.raises(UserError, match=re.escape(reason)):
                parse_methods([f"{name}+{MODIFIERS[kind]}"], "quick")


#: Expression and modality with which a modifier has an effect; with the defaults the gradient of the KL is the same.
SENSITIVE = {"control_vae": ("control_vae(target=0.001)", "text"), "free_bits": ("free_bits(target=0.0)", "text")}
SENSITIVE["kl_capacity"] = ("kl_capacity(target=50.0)", "image")  # the KL of the toy text model starts at 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if name in REPRESENTATIVES else pytest.mark.slow)
        for name in METHODS
        for kind in MODIFIERS
        if kind not in registry.method(name).incompatible_with
    ],
)
def test_modifiers_change_training(name, kind, train_once, toy_trainer, tmp_path):
    expression, modality = SENSITIVE.get(name, (quick(name), fastest_modality(name)))
    run = toy_trainer(f"{expression}+{MODIFIERS[kind]}", modality, tmp_path)
    run.run()
    modified = {key: value.detach() for key, value in run.model.decoder.named_parameters()}
    last = torch.load(train_once(expression, modality).folder / "last.pt", weights_only=True)["model"]
    assert all(value.isfinite().all() for value in modified.values())
    assert any(not torch.equal(value, last[f"decoder.{key}"]) for key, value in modified.items())


def without_seconds(validation: Validation | dict) -> Validation:
    return Validation.model_validate(validation).model_copy(update={"seconds": 0})


class Killed(BaseException):
    """Ends training without any handler running."""


def run_killed(trainer, step, monkeypatch):
    """Run a trainer with a checkpoint after every update until the decoder update ``step``, where it is killed."""
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    update = TrainingContext.update

    def killed_update(self, *args, **options):
        if self.step == step:
            raise Killed
        return update(self, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainingContext, "update", killed_update)
        trainer.run()


@pytest.mark.parametrize(
    ("expression", "modality", "step"),
    [
        *(pytest.param(quick(name), fastest_modality(name), 7, id=name) for name in STATEFUL),
        *(
            pytest.param(quick(name), fastest_modality(name), 7, id=name, marks=pytest.mark.slow)
            for name in METHODS
            if name not in STATEFUL
        ),
        *(
            pytest.param(expression, "image", 2, id=f"{expression}-image", marks=pytest.mark.slow)
            for expression in [*map(quick, STATEFUL), "aggressive(patience=1)+anneal"]
        ),
    ],
)
def test_resumes_bit_for_bit(expression, modality, step, train_once, toy_trainer, tmp_path, monkeypatch):
    """A run killed at ``step`` and started again ends with the weights and history of an uninterrupted run."""
    run_killed(toy_trainer(expression, modality, tmp_path), step, monkeypatch)
    resumed = toy_trainer(expression, modality, tmp_path)
    result = resumed.run()
    uninterrupted = train_once(expression, modality)
    expected = uninterrupted.planned.folder.result().training
    assert result.resumes == 1 and expected.resumes == 0
    assert (result.updates, result.events, result.flops) == (expected.updates, expected.events, expected.flops)
    last = torch.load(uninterrupted.folder / "last.pt", weights_only=True)["model"]
    assert_equal_weights(resumed.model.state_dict(), last)
    assert_equal_weights(best_weights(tmp_path), best_weights(uninterrupted.folder))
    history = uninterrupted.planned.folder.history()
    assert list(map(without_seconds, resumed.history)) == list(map(without_seconds, history))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in OTHER_NETWORKS else pytest.mark.slow)
        for name in METHODS
        if {"image", "text"} <= {*registry.method(name).modalities}
    ],
)
def test_trains_and_evaluates_on_images(name, train_once):
    check_records(train_once(quick(name), "image"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("name", METHODS)
def test_losses_are_finite_with_every_preset(name, preset, toy_data, tmp_path):
    """Two updates of a toy model with the method settings and the optimiser of the preset."""
    for modality in registry.method(name).modalities:
        if preset not in preset_names(modality):
            continue
        data = toy_data[modality]
        sizes = {"epochs": 2, "epoch_updates": 1, "batch_size": 10, "val_examples": 20, "lag_examples": 0}
        train = replace(load_preset(preset, modality).train, **sizes)
        tiny = replace(TOYS[modality], name=preset, train=train)
        run = trainers(planner(data, tiny, tmp_path / modality), data, tiny)(name, tmp_path / modality)
        assert math.isfinite(run.run().train_seconds) and math.isfinite(run.history[-1].train_loss)


def test_methods_share_initial_weights(planned):
    """Initial weights depend on the architecture and not on the method."""
    models = [
        build_from_config(planned(e).config)[1] for e in ("vae", "beta_vae", "aggressive", "sa_vae", "vae+anneal")
    ]
    for model in models[1:]:
        assert_equal_weights(model.state_dict(), models[0].state_dict())
    decoder = build_from_config(planned("autoregressive").config)[1].decoder.state_dict()
    reference = models[0].decoder.state_dict()
    assert_equal_weights(decoder, {name: reference[name] for name in decoder})
