"""Networks that methods build: how they start, and what reaches what."""

import itertools
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from bench.methods.parts.brenier import Brenier
from bench.models.distributions import Gaussian
from tests.conftest import assert_equal_weights


@pytest.mark.parametrize("name", ["bn_vae", "du_vae", "scale_vae"])
@pytest.mark.parametrize("make", ["trainer", "text_trainer"])
def test_normalised_means_start_with_a_spread(name, make, request, tmp_path):
    """Normalisation divides by this spread, and multiplies the gradient accordingly."""
    run = request.getfixturevalue(make)(name, tmp_path)
    with torch.no_grad():
        q = run.model.head.head(run.model.features(run.ctx.next_main_batch()))
    assert isinstance(q, Gaussian) and q.mean.std(0).min() > 1e-3


def test_brenier_maps_start_near_an_isometry(subtests):
    """Singular values of the Jacobian of T_2(T_1(z)), in the dimensions of images and of text at reduced size."""
    for dim, inverse_lipschitz in itertools.product([2, 5, 16, 52, 144], [0.0, 0.5]):
        with subtests.test(dim=dim, inverse_lipschitz=inverse_lipschitz):
            torch.manual_seed(dim)
            maps = nn.Sequential(*(Brenier(dim, inverse_lipschitz) for _ in range(2)))
            jacobians = [torch.autograd.functional.jacobian(maps, z) for z in torch.randn(3, dim)]
            values = torch.linalg.svdvals(torch.stack(jacobians))
            assert 0.5 < values.median() < 2
            assert values.max() / values.min() < 5


def test_brenier_maps_start_with_outputs_as_long_as_inputs(subtests):
    """Also for the decoder of text, whose states are short at the start: two dimensions of z and 50 of 0.01 N(0, I)."""
    states = torch.tensor([0.01] * 50 + [1.0] * 2)
    for widths, inverse_lipschitz in itertools.product([torch.ones(2), torch.ones(52), states], [0.0, 0.5]):
        with subtests.test(dim=len(widths), inverse_lipschitz=inverse_lipschitz):
            torch.manual_seed(0)
            maps = nn.Sequential(*(Brenier(len(widths), inverse_lipschitz) for _ in range(2)))
            z = widths * torch.randn(20, len(widths))
            ratio = maps(z).norm(dim=1) / z.norm(dim=1)
            assert 0.5 < ratio.min() and ratio.max() < 2


def test_negative_dual_kl_trains_the_encoder(text_trainer, tmp_path):
    """With ν near 1 everywhere, the estimate ν - exp ν + 1 is about -0.7."""
    run = text_trainer("implicit_vae", tmp_path)
    model, x = run.model, run.ctx.next_main_batch()
    torch.nn.init.ones_(model.aux["dual"][-1].bias)
    terms = run.method.elbo_terms(run.ctx, x)
    kl = run.method.kl_loss(terms)
    assert kl.item() < -0.5
    gradients = torch.autograd.grad(kl, [*model.features.lstm.parameters(), *model.head.parameters()])
    assert all(gradient.any() for gradient in gradients)
    assert run.method.posterior(run.ctx, x, train=False).kl.mean() < -0.5, "metrics have the estimate, not 0"


@torch.no_grad()
def test_pseudo_images_start_as_data(trainer, tmp_path):
    """The components' means are spread as those of the posteriors, not near one point."""
    run = trainer("vamp_prior(components=50)", tmp_path)
    model, ctx = run.model, run.ctx
    model.train()
    run.method.on_phase_start(ctx)
    components, q = model.prior.components(), model.encode(torch.cat([ctx.next_batch() for _ in range(5)]))
    ratio = components.mean.std(0).mean() / q.mean.std(0).mean()
    assert 0.6 < ratio < 1.5
    assert (components.mean.mean(0) - q.mean.mean(0)).abs().max() < q.mean.std(0).mean()


def test_equal_training_images_are_an_error(trainer, tmp_path):
    run = trainer("vamp_prior(components=4)", tmp_path)
    x = run.ctx.next_batch()
    run.ctx.next_batch = lambda: x[:1].expand_as(x)
    with pytest.raises(ValueError, match="all training images are equal"):
        run.method.on_phase_start(run.ctx)


def test_encoding_pseudo_images_changes_no_state(trainer, tmp_path):
    """They are encoded by the running statistics, with gradients, and the encoder stays in training mode."""
    model = trainer("vamp_prior(components=4)", tmp_path).model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = []
    handle = model.features.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    components = model.prior.components()
    assert not modes and all(module.training for module in model.modules())
    assert_equal_weights(model.state_dict(), before)
    parameters = [model.prior.inputs, *model.features.parameters()]
    assert all(gradient.any() for gradient in torch.autograd.grad(components.mean.square().sum(), parameters))
    handle.remove()
    expected = model.eval().encode(model.prior.inputs.sigmoid())
    torch.testing.assert_close(components.mean, expected.mean)


def test_skip_vae_gives_z_to_every_layer(trainer, tmp_path, subtests):
    """With all paths of z closed but one, every pixel's logit depends on z. Shared weights start as the VAE's."""
    model = trainer("skip_vae", tmp_path / "skip").model.eval()
    basic = trainer("vae", tmp_path / "vae").model
    assert_equal_weights(model.decoder.state_dict(), basic.decoder.state_dict())
    projection, x = model.latent_to_decoder, torch.rand(1, 1, 7, 7).round()
    entries = {"layer 0": projection.first, "logits": projection.logits}
    entries |= {f"block {i}": block for i, block in enumerate(projection.blocks)}
    for name, entry in entries.items():
        with subtests.test(name):
            closed = [p for other in entries.values() if other is not entry for p in other.parameters()]
            if name == "logits":  # with everything before it closed, too
                closed += [*model.decoder.blocks.parameters(), *model.decoder.skips.parameters()]
            with closed_parameters(closed):
                image = model.decoder.image_projection(x)
                z = torch.randn(model.latent_dim, generator=torch.Generator().manual_seed(0))
                dependence = torch.autograd.functional.jacobian(
                    lambda z, image=image: model.decoder.logits(projection(z.unsqueeze(0)), image).flatten(), z
                )
            assert (dependence != 0).all()


@contextmanager
def closed_parameters(parameters):
    """Set parameters to 0 within the context."""
    values = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p in parameters:
            p.zero_()
    yield
    with torch.no_grad():
        for p, value in zip(parameters, values, strict=True):
            p.copy_(value)
