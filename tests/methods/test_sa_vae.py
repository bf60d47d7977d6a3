"""SVI refinement and the gradient through it: against an unrolled graph and finite differences, in float64."""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.experiment.presets import load_preset
from bench.methods.parts.refinement import refine
from bench.models.distributions import Gaussian
from bench.training.expressions import parse_methods
from tests.conftest import MODEL
from tests.fixtures.networks import build_image_model
from tests.methods.test_contract import quick

STEPS, LR, MOMENTUM = 4, 0.2, 0.5


@pytest.fixture
def ctx():
    torch.manual_seed(0)
    return SimpleNamespace(
        model=build_image_model(MODEL).double().train(),
        beta=0.7,
        train=SimpleNamespace(batch_size=1),
        generator=lambda purpose: torch.Generator().manual_seed(7),
        fixed_rng=lambda *key: nullcontext(),
    )


@pytest.fixture
def x(ctx):
    return (torch.rand(5, 1, 7, 7) < 0.4).double()


def unrolled(ctx, x, q, clip):
    """The definition, step by step, on one graph."""
    noise = torch.randn(STEPS, *q.mean.shape, generator=ctx.generator("refine"), dtype=x.dtype)
    mean, logvar = q.mean, q.logvar
    velocity = [torch.zeros_like(mean), torch.zeros_like(mean)]
    for step in range(STEPS):
        z = mean + (0.5 * logvar).exp() * noise[step]
        kl = ctx.model.prior.kl(Gaussian(mean, logvar)).sum()
        loss = -ctx.model.log_prob(x, z.unsqueeze(1)).sum() + ctx.beta * kl
        gradients = torch.autograd.grad(loss, [mean, logvar], create_graph=True)
        clipped = [g * (clip / g.norm(dim=1, keepdim=True).clamp_min(clip)) for g in gradients]
        velocity = [MOMENTUM * v - g for v, g in zip(velocity, clipped, strict=True)]
        mean, logvar = mean + LR * velocity[0], logvar + LR * velocity[1]
    return Gaussian(mean, logvar)


def final_loss(ctx, x, q):
    z = q.rsample(1, torch.Generator().manual_seed(9))
    return -ctx.model.log_prob(x, z).mean() + ctx.beta * ctx.model.prior.kl(q).mean()


def refined_loss(ctx, x, clip, **settings):
    q = refine(ctx, x, ctx.model.encode(x), STEPS, LR, MOMENTUM, clip, differentiable=True, **settings)
    return final_loss(ctx, x, q)


@pytest.mark.parametrize("clip", [1e3, 0.5], ids=["unclipped", "clipped"])
def test_gradient_matches_the_unrolled_graph(ctx, x, clip):
    parameters = list(ctx.model.parameters())
    gradients = torch.autograd.grad(refined_loss(ctx, x, clip), parameters)
    expected = torch.autograd.grad(final_loss(ctx, x, unrolled(ctx, x, ctx.model.encode(x), clip)), parameters)
    torch.testing.assert_close(gradients, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("clip", [1e3, 0.5], ids=["unclipped", "clipped"])
def test_difference_gradient_approaches_the_exact_one(ctx, x, clip):
    parameters = list(ctx.model.parameters())
    exact = torch.autograd.grad(refined_loss(ctx, x, clip), parameters)
    scale = sum(g.square().sum() for g in exact).sqrt()
    errors = []
    for difference in (1e-4, 1e-7):
        loss = refined_loss(ctx, x, clip, gradient="differences", difference=difference)
        approximate = torch.autograd.grad(loss, parameters)
        error = sum((a - b).square().sum() for a, b in zip(approximate, exact, strict=True)).sqrt()
        errors.append((error / scale).item())
    assert errors[1] < 1e-4
    assert errors[1] < errors[0] < 0.05


@pytest.mark.parametrize("clip", [1e3, 0.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("batch_size", [32, 50])
def test_step_is_that_of_the_mean_loss(ctx, x, batch_size, clip, monkeypatch):
    """The published step: on the mean loss of a batch, here of one example repeated, clipped as one gradient."""
    ctx.train.batch_size = batch_size
    batch, noise = x[:1].repeat(batch_size, 1, 1, 1), torch.full((1, batch_size, MODEL.latent_dim), 0.3, dtype=x.dtype)
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: noise)
    ctx.model.eval()
    q = ctx.model.encode(batch)
    state = [value.detach().requires_grad_() for value in (q.mean, q.logvar)]
    z = state[0] + (0.5 * state[1]).exp() * noise[0]
    loss = (ctx.beta * ctx.model.prior.kl(Gaussian(*state)) - ctx.model.log_prob(batch, z.unsqueeze(1))[:, 0]).mean()
    gradients = torch.autograd.grad(loss, state)
    expected = [value - g * (clip / g.norm()).clamp_max(1) for value, g in zip(state, gradients, strict=True)]
    refined = refine(ctx, batch, q, 1, 1.0, MOMENTUM, clip, differentiable=False)
    torch.testing.assert_close([refined.mean, refined.logvar], expected)


def test_the_paper_preset_takes_the_published_steps(subtests):
    """Kim et al.: step 1 and clip 5 on the mean of a batch, 1/50 and 35 per image, 1/32 and 28 per text."""
    for modality, (step, clip) in {"image": (1 / 50, 35.4), "text": (1 / 32, 28.3)}.items():
        with subtests.test(modality=modality):
            (row,), _ = parse_methods(["sa_vae"], "paper")
            batch_size = load_preset("paper", modality).train.batch_size
            assert row.config.lr / batch_size == step and row.config.steps == 10
            assert row.config.clip * math.sqrt(batch_size) == pytest.approx(clip, abs=0.05)


@pytest.mark.parametrize("name", ["sa_vae", "svi", "vae_svi", "vae_svi_kl"])
def test_expected_cost_is_near_the_measured_one(name, text_planned):
    baseline = json.loads((Path(__file__).parents[1] / "perf" / "baseline.json").read_text("utf-8"))
    cell = text_planned(quick(name))  # the expression that was measured
    cost = cell.variant.instance().expected_cost(cell.config.train, cell.config.dataset)
    assert cost == pytest.approx(baseline["seconds"]["text"][name], rel=0.2)


def test_refinement_lowers_its_loss(ctx, x):
    ctx.model.eval()
    initial = ctx.model.encode(x)
    refined = refine(ctx, x, initial, 40, 1 / 32, 0.5, 5.0, differentiable=False)

    def loss(q):
        z = q.rsample(500, torch.Generator().manual_seed(3))
        return (-ctx.model.log_prob(x, z).mean() + ctx.beta * ctx.model.prior.kl(q).mean()).item()

    assert loss(refined) < loss(initial)


def test_refinement_of_an_example_ignores_its_batch(ctx, x, monkeypatch):
    ctx.model.eval()
    noise = torch.randn(STEPS, 5, MODEL.latent_dim, dtype=x.dtype)

    def refined_mean(part):
        q = ctx.model.encode(x[part])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *shape, **options: noise[:, part])
            return refine(ctx, x[part], q, STEPS, LR, MOMENTUM, 0.5, differentiable=False).mean

    expected = refined_mean(slice(0, 5))
    for part in (slice(0, 2), slice(2, 5)):
        torch.testing.assert_close(refined_mean(part), expected[part])


def test_refinement_keeps_running_averages(ctx, x):
    before = {name: value.clone() for name, value in ctx.model.decoder.state_dict().items()}
    q = refine(ctx, x, ctx.model.encode(x), STEPS, LR, MOMENTUM, 5.0, differentiable=True)
    (q.mean.sum() + q.logvar.sum()).backward()
    assert all(torch.equal(before[name], value) for name, value in ctx.model.decoder.state_dict().items())


def test_backward_pass_repeats_the_dropout_of_the_forward_pass(text_trainer, tmp_path):
    run = text_trainer("sa_vae(steps=2)", tmp_path)
    method, ctx, model = run.method, run.ctx, run.model.double().train()
    for parameter in model.parameters():  # at initialisation gradients vanish in rounding
        torch.nn.init.normal_(parameter, std=0.5)
    x = ctx.next_main_batch()
    ctx.reseed_streams("step", 0)
    weight = model.head.linear.weight

    def loss():
        ctx.generators = {}
        q = method.posterior(ctx, x, train=True)
        with ctx.fixed_rng("loss"):
            return (model.prior.kl(q) - model.log_prob(x, q.mean.unsqueeze(1)).squeeze(1)).mean()

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction, eps, values = torch.randn_like(weight), 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * eps * direction
        values.append(loss().item())
        with torch.no_grad():
            weight -= sign * eps * direction
    assert (values[0] - values[1]) / (2 * eps) == pytest.approx((gradient * direction).sum().item(), rel=1e-4)
