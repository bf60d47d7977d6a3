"""SA-VAE's gradient: against a graph that keeps every refinement step, and against finite differences, in float64."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from bench.methods.parts.refinement import refine

from bench.models.distributions import Gaussian
from bench.models.image import build_image_model
from tests.conftest import MODEL

STEPS, LR, MOMENTUM = 4, 0.2, 0.5
STEP = 1e-8  # of finite differences; a longer one crosses kinks, for ELU's second derivative jumps at 0


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = build_image_model(MODEL).double().train()
    x = (torch.rand(5, 1, 7, 7) < 0.4).double()
    ctx = SimpleNamespace(
        model=model,
        beta=0.7,
        generator=lambda purpose: torch.Generator().manual_seed(7),
        repeatable=lambda *key: nullcontext(),
    )
    return model, x, ctx


def unrolled(ctx, x, q, clip):
    """The definition, step by step, with everything on one graph."""
    noise = torch.randn(STEPS, *q.mean.shape, generator=ctx.generator("refine"), dtype=x.dtype)
    mean, logvar = q.mean, q.logvar
    velocity = [torch.zeros_like(mean), torch.zeros_like(mean)]
    for step in range(STEPS):
        z = mean + (0.5 * logvar).exp() * noise[step]
        loss = (
            -ctx.model.log_prob(x, z.unsqueeze(1)).sum() + ctx.beta * ctx.model.prior.kl(Gaussian(mean, logvar)).sum()
        )
        gradients = torch.autograd.grad(loss, [mean, logvar], create_graph=True)
        clipped = [g * (clip / g.norm(dim=1, keepdim=True).clamp_min(clip)) for g in gradients]
        velocity = [MOMENTUM * v - g for v, g in zip(velocity, clipped, strict=True)]
        mean, logvar = mean + LR * velocity[0], logvar + LR * velocity[1]
    return Gaussian(mean, logvar)


def final_loss(ctx, x, q):
    z = q.rsample(1, torch.Generator().manual_seed(9))
    return -ctx.model.log_prob(x, z).mean() + ctx.beta * ctx.model.prior.kl(q).mean()


def loss_of(ctx, x, clip):
    q = refine(ctx, x, ctx.model.encode(x), STEPS, LR, MOMENTUM, clip, differentiable=True)
    return final_loss(ctx, x, q)


@pytest.mark.parametrize("clip", [1e3, 0.5], ids=["unclipped", "clipped"])
def test_gradient_equals_that_of_the_unrolled_graph(setting, clip):
    model, x, ctx = setting
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss_of(ctx, x, clip), parameters)
    expected = torch.autograd.grad(final_loss(ctx, x, unrolled(ctx, x, model.encode(x), clip)), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_gradient_equals_finite_differences(setting):
    model, x, ctx = setting
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss_of(ctx, x, 1e3), parameters)
    torch.manual_seed(1)
    for group in (model.parameter_groups()["encoder"], model.parameter_groups()["decoder"]):
        directions = [torch.randn_like(p) if any(p is q for q in group) else torch.zeros_like(p) for p in parameters]
        slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p += sign * STEP * d
            losses.append(loss_of(ctx, x, 1e3).item())
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p -= sign * STEP * d
        assert slope == pytest.approx((losses[0] - losses[1]) / (2 * STEP), rel=1e-4)


@pytest.mark.parametrize("clip", [1e3, 0.5], ids=["unclipped", "clipped"])
def test_differences_come_near_the_exact_gradient(setting, clip):
    """The nearer, the shorter their step; in double precision, where rounding does not yet matter."""
    model, x, ctx = setting
    parameters = list(model.parameters())
    exact = torch.autograd.grad(loss_of(ctx, x, clip), parameters)
    errors = []
    for difference in (1e-4, 1e-7):
        q = refine(ctx, x, model.encode(x), STEPS, LR, MOMENTUM, clip, True, "differences", difference)
        found = torch.autograd.grad(final_loss(ctx, x, q), parameters)
        apart = sum((a - b).square().sum() for a, b in zip(found, exact, strict=True)).sqrt()
        errors.append((apart / sum(b.square().sum() for b in exact).sqrt()).item())
    assert errors[1] < 1e-4
    assert errors[1] < errors[0] < 0.05


def test_refinement_lowers_the_loss_it_descends(setting):
    model, x, ctx = setting
    model.eval()
    before = model.encode(x)
    after = refine(ctx, x, before, 40, 1 / 32, 0.5, 5.0, differentiable=False)

    def loss(q):
        z = q.rsample(2000, torch.Generator().manual_seed(3))
        return (-model.log_prob(x, z).mean() + ctx.beta * model.prior.kl(q).mean()).item()

    assert loss(after) < loss(before)


def test_examples_are_refined_independently_of_their_batch(setting):
    model, x, ctx = setting
    model.eval()

    def refined(part):
        # The same noise for an example wherever it stands.
        ctx.generator = lambda purpose: torch.Generator().manual_seed(7)
        q = model.encode(x)
        q = Gaussian(q.mean[part], q.logvar[part])
        noise = torch.randn(STEPS, 5, MODEL.latent_dim, generator=ctx.generator(""), dtype=x.dtype)[:, part]
        original, torch.randn = torch.randn, lambda *shape, **options: noise
        try:
            return refine(ctx, x[part], q, STEPS, LR, MOMENTUM, 0.5, differentiable=False)
        finally:
            torch.randn = original

    whole = refined(slice(0, 5))
    for part in (slice(0, 2), slice(2, 5)):
        torch.testing.assert_close(refined(part).mean, whole.mean[part])


def test_refinement_leaves_running_averages_alone(setting):
    model, x, ctx = setting
    before = {name: value.clone() for name, value in model.decoder.state_dict().items()}
    q = model.encode(x)
    refined = refine(ctx, x, q, STEPS, LR, MOMENTUM, 5.0, differentiable=True)
    (refined.mean.sum() + refined.logvar.sum()).backward()
    assert all(torch.equal(before[name], value) for name, value in model.decoder.state_dict().items())


def test_no_steps_return_the_encoders_posterior_itself(setting):
    model, x, ctx = setting
    q = model.encode(x)
    assert refine(ctx, x, q, 0, LR, MOMENTUM, 5.0, differentiable=True) is q
