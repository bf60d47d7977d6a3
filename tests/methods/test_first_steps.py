"""The start and the effective step of every method: what a wrong initialisation or a wrong clipping changes.

``effective_steps.csv`` has |θ_20 - θ_0| of every parameter group after 20 updates of SGD, divided by that of the basic
VAE's group ("other" groups: by its decoder's). A change of it has to be explained; write it again by
``BENCH_WRITE_STEPS=1 python -m pytest -n 0 tests/methods/test_first_steps.py``.
"""

import math
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.data.dataset import PAD
from bench.experiment.presets import load_preset
from bench.training import registry
from tests.conftest import TEXT_TOY, TOY, planner, trainers

TABLE = Path(__file__).parent / "effective_steps.csv"
UPDATES = 20
TOYS = {"image": TOY, "text": TEXT_TOY}
WIDTH = replace(TEXT_TOY.model, initialisation="width")
CASES = [
    pytest.param(name, modality, id=f"{name}-{modality}")
    for name in registry.method_names()
    for modality in registry.method(name).modalities
    if modality in TOYS
]


@pytest.fixture
def trainer_of(prepared, text_prepared, tmp_path):
    """``trainer_of(method, modality, model=…, **settings)``: a trainer of a toy data set at its first phase."""

    def create(name, modality, model=None, **settings):
        data, toy = {"image": prepared, "text": text_prepared}[modality], TOYS[modality]
        preset = replace(toy, name="quick", model=model or toy.model, train=replace(toy.train, **settings))
        run = trainers(planner(data, preset, tmp_path / "plan"), data, preset)(name, tmp_path / name)
        run.model.train()
        run.start_phase(0)
        return run

    return create


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_first_reconstruction_is_that_of_uniform_predictions(name, modality, trainer_of):
    """At the sizes of preset ``quick``: pixels at ½, words uniform, codes not wider than three times the prior."""
    model = load_preset("quick", modality).model
    run = trainer_of(name, modality, replace(model, vocabulary=None) if modality == "text" else model)
    run.ctx.reseed_streams("step", 0)
    x = run.ctx.next_main_batch()
    with torch.no_grad():
        terms = run.method.elbo_terms(run.ctx, x)
    if modality == "image":
        uniform = x[0].numel() * math.log(2)
    else:
        uniform = (x[:, 1:] != PAD).sum().item() / len(x) * math.log(run.data.info.vocabulary)
    assert terms.rec.mean() < 1.15 * uniform
    assert not terms.z.numel() or terms.z.square().mean().sqrt() < 3


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_gradients_of_added_networks_leave_the_shared_steps_alone(name, modality, trainer_of):
    """Gradients of an added network times 100, and the same steps of encoder and decoder."""
    steps = []
    for factor in (1, 100):
        run = trainer_of(name, modality, optimiser="sgd", clip=1.0)
        added = [group for name, group in run.ctx.optimisers.items() if name not in SHARED]
        if not added:
            return
        for group in (group for optimiser in added for group in optimiser.param_groups):
            group["lr"] = 0.0  # an adversary that moves changes later updates of the step
            for p in group["params"]:
                p.register_hook(lambda gradient, factor=factor: factor * gradient)
        before = shared_parameters(run)
        run.train_step()
        steps.append([(a - b).double() for a, b in zip(shared_parameters(run), before, strict=True)])
    for a, b in zip(*steps, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


SHARED = ("encoder", "decoder")


def shared_parameters(run):
    groups = run.method.param_groups(run.model)
    return [p.detach().clone() for name in SHARED if name in groups for p in groups[name].params]


def effective_steps(run):
    """Return |θ_20 - θ_0| of encoder, decoder and all other groups, and train on the way."""
    groups = run.method.param_groups(run.model)
    names = {p: name if name in SHARED else "other" for name, group in groups.items() for p in group.params}
    before = {p: p.detach().clone() for p in names}
    run.train()
    squares = dict.fromkeys(names.values(), 0.0)
    for p, name in names.items():
        squares[name] += (p - before[p]).double().square().sum().item()
    return {name: math.sqrt(square) for name, square in squares.items()}


@pytest.fixture(scope="module")
def table():
    """The committed table; with BENCH_WRITE_STEPS a new one, written at the end."""
    if not os.environ.get("BENCH_WRITE_STEPS"):
        yield pd.read_csv(TABLE).set_index(["modality", "method"]).sort_index()
        return
    rows = {}
    yield rows
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=[*SHARED, "other"]).sort_index()
    frame.rename_axis(["modality", "method"]).to_csv(TABLE, float_format="%.3g")


@pytest.fixture(scope="module")
def baseline():
    return {}


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_first_posterior_means_differ(name, modality, trainer_of):
    """At the sizes of preset ``small``: an encoder that ignores its input has no information to lose."""
    model = load_preset("small", modality).model
    run = trainer_of(name, modality, replace(model, vocabulary=None) if modality == "text" else model)
    if not run.model.latent_dim:
        pytest.skip("no latent")
    run.ctx.reseed_streams("step", 0)
    with torch.no_grad():
        means = run.method.posterior(run.ctx, run.ctx.next_main_batch(), train=True).mean
    assert means.std(0).median() > 1e-3


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_effective_steps_equal_the_committed_table(name, modality, trainer_of, table, baseline):
    settings = {"optimiser": "sgd", "lr": 0.1, "epochs": 4, "epoch_updates": UPDATES // 4, "extra_updates_until": 0.1}
    model = WIDTH if modality == "text" else None  # otherwise the encoder of a toy model hardly depends on its input
    if modality not in baseline:
        baseline[modality] = effective_steps(trainer_of("vae", modality, model, **settings))
    reference = baseline[modality] | {"other": baseline[modality]["decoder"]}
    steps = effective_steps(trainer_of(name, modality, model, **settings))
    ratios = {group: step / reference[group] for group, step in steps.items()}
    if isinstance(table, dict):
        table[modality, name] = ratios
        pytest.skip("written")
    assert (modality, name) in table.index, f"no row in {TABLE.name}: write it with BENCH_WRITE_STEPS=1"
    assert ratios == pytest.approx(table.loc[(modality, name)].dropna().to_dict(), rel=0.05, abs=1e-3)
