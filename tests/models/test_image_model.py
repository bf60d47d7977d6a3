"""Image networks: published sizes, causality, sampling."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.core.config import ImageModelConfig
from bench.experiment.presets import load_preset
from bench.models.architectures.masked_cnn import MaskedConv
from bench.models.build import reference_parameters
from bench.models.vae import fixed_statistics
from tests.conftest import MODEL
from tests.fixtures.networks import build_image_model


def count(*modules: nn.Module) -> int:
    return sum(reference_parameters(module) for module in modules)


def test_paper_sizes_are_the_published_ones():
    model = build_image_model(ImageModelConfig())
    assert count(model.features, model.head) == 752_448
    assert count(model.latent_to_decoder, model.decoder) == 894_400
    assert count(build_image_model(ImageModelConfig(), latent=False)) == 894_400 - 32 * 4 * 28**2
    masked = [m for m in model.modules() if isinstance(m, MaskedConv)]
    assert sum(m.reference_parameters - int(m.mask.sum()) for m in masked) == 325_184, "entries that are always zero"


def test_presets_build_their_models(subtests):
    for name in ["quick", "small"]:
        with subtests.test(name=name):
            config = load_preset(name, "image").model
            model = build_image_model(config).eval()
            x = torch.zeros(2, 1, config.image_size, config.image_size)
            assert model.log_prob(x, model.encode(x).rsample(3)).shape == (2, 3)


@pytest.mark.parametrize("preset", ["quick", pytest.param("paper", marks=pytest.mark.slow)])
def test_initial_decoder_predicts_uniform_pixels(preset):
    """The output convolutions start as the reference's: uniform within 1 / √C, and nearly every pixel at ½."""
    config = load_preset(preset, "image").model
    torch.manual_seed(0)
    model = build_image_model(config)
    last = model.decoder.output[-1].weight
    assert last.abs().max() <= config.decoder_channels**-0.5
    assert last.std().item() == pytest.approx((3 * config.decoder_channels) ** -0.5, rel=0.25)
    x = torch.rand(20, 1, config.image_size, config.image_size).round()
    rec = -model.log_prob(x, torch.randn(20, 1, config.latent_dim)).mean().item()
    assert rec < 1.15 * config.image_size**2 * math.log(2)


def test_masked_convolution_matches_the_full_kernel(subtests):
    for centre, size in itertools.product([False, True], [3, 7]):
        with subtests.test(size=size, centre=centre):
            torch.manual_seed(size)
            layer = MaskedConv(3, 4, size, centre).double()
            reach = size // 2
            kernel = torch.zeros(4, 3, size, size, dtype=torch.float64)
            kernel[:, :, : reach + 1] = layer.weight.detach()
            mask = torch.ones(size, size)
            mask[reach, reach + centre :] = 0
            mask[reach + 1 :] = 0
            x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
            y = layer(F.pad(x, (0, 0, reach, 0)))
            torch.testing.assert_close(y, F.conv2d(x, kernel * mask, padding=reach))
            y.square().sum().backward()
            assert (layer.weight.grad[layer.mask == 0] == 0).all() and (layer.weight.grad[layer.mask == 1] != 0).any()


AUTOREGRESSIVE = ["masked_cnn", "gated_pixelcnn"]


@pytest.mark.parametrize("architecture", AUTOREGRESSIVE)
def test_decoder_is_causal_in_the_image_and_depends_on_z(architecture):
    torch.manual_seed(0)
    model = build_image_model(replace(MODEL, architecture=architecture)).eval().double()
    x, z = torch.rand(1, 1, 7, 7, dtype=torch.float64).round(), torch.randn(1, 3, dtype=torch.float64)

    def logits(x, z):
        return model.decoder.logits(model.latent_to_decoder(z), model.decoder.image_projection(x)).flatten()

    dependence = torch.autograd.functional.jacobian(lambda x: logits(x, z), x).reshape(49, 49)
    assert (dependence.triu() == 0).all(), "a pixel depends on itself or a later one"
    assert (dependence.tril(-1) != 0).any(1)[1:].all(), "a pixel depends on no earlier one"
    assert (torch.autograd.functional.jacobian(lambda z: logits(x, z), z) != 0).any(-1).all()


@pytest.mark.parametrize(
    ("architecture", "training"), [("masked_cnn", False), ("gated_pixelcnn", True), ("gated_pixelcnn", False)]
)
def test_pixels_depend_on_earlier_ones_to_the_bit(architecture, training):
    """Whatever follows and whatever else is in the batch, unless BatchNorm normalises by its statistics."""
    torch.manual_seed(0)
    model = build_image_model(replace(MODEL, architecture=architecture)).train(training)
    x, code = torch.rand(3, 1, 7, 7).round(), model.latent_to_decoder(torch.randn(3, 3))

    def logits(x, code):
        return model.decoder.logits(code, model.decoder.image_projection(x))

    expected = logits(x, code).flatten(1)
    for pixel in (0, 10, 30, 48):
        later = x.flatten(1).clone()
        later[:, pixel:] = 1 - later[:, pixel:]
        assert torch.equal(logits(later.view_as(x), code).flatten(1)[:, : pixel + 1], expected[:, : pixel + 1])
    others = torch.cat([x[:1], 1 - x[1:]]), torch.cat([code[:1], -code[1:]])
    assert torch.equal(logits(*others).flatten(1)[0], expected[0])


@pytest.mark.parametrize(
    ("architecture", "side"),
    [*(("masked_cnn", side) for side in (1, 3, 5, 7)), *(("gated_pixelcnn", side) for side in (3, 5, 7))],
)
def test_prediction_reads_the_pixels_of_the_receptive_field(architecture, side):
    config = replace(MODEL, architecture=f"{architecture}(receptive_field={side})")
    torch.manual_seed(0)
    model = build_image_model(config).eval().double()
    code, x = model.latent_to_decoder(torch.randn(1, 3).double()), torch.rand(1, 1, 7, 7).double().requires_grad_()
    model.decoder.logits(code, model.decoder.image_projection(x))[0, 0, 3, 3].backward()
    read, window, reach = x.grad[0, 0] != 0, torch.zeros(7, 7, dtype=torch.bool), side // 2
    window[3 - reach : 3, 3 - reach : 4 + reach] = True
    window[3, 3 - reach : 3] = True
    assert not (read & ~window).any()
    if architecture == "gated_pixelcnn":
        assert torch.equal(read, window), "no blind spot"
    elif reach:
        assert read[3 - reach, 3 - reach] and read[3, 3 - reach]
    assert torch.isfinite(model.log_prob(x, torch.zeros(1, 1, 3).double())).all()


@pytest.mark.parametrize("architecture", AUTOREGRESSIVE)
def test_model_without_latent_is_a_vae_that_ignores_z(architecture):
    """From equal initial weights, with the projection of z at zero and its bias learned."""
    models = []
    for latent in (True, False):
        torch.manual_seed(0)
        models.append(build_image_model(replace(MODEL, architecture=architecture), latent))
    vae, alone = models
    linear, maps = vae.latent_to_decoder.linear, alone.latent_to_decoder.maps
    assert torch.equal(linear.bias, maps.flatten()), "initial values"
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(maps.normal_().flatten())
    x, z = torch.rand(5, 1, 7, 7).round(), torch.randn(5, 2, 3)
    torch.testing.assert_close(vae.log_prob(x, z), alone.log_prob(x, z[..., :0]))
    with torch.no_grad():
        maps.zero_()
    assert not torch.allclose(vae.log_prob(x, z), alone.log_prob(x, z[..., :0]))


@pytest.mark.parametrize("latent", [True, False])
@pytest.mark.parametrize("architecture", [*AUTOREGRESSIVE, "cnn"])
def test_samples_follow_the_likelihood(architecture, latent):
    """All 16 images of 4 pixels: frequencies of samples against p(x|z)."""
    config = ImageModelConfig(2, "mean", 2, (3,), 4, 4, (3, 3), (), 2, architecture=architecture)
    torch.manual_seed(1)
    model = build_image_model(config, latent).eval()
    z = torch.zeros(1, model.latent_dim)
    images = torch.tensor([[(i >> b) & 1 for b in range(4)] for i in range(16)]).float().reshape(16, 1, 2, 2)
    p = model.log_prob(images, z.expand(16, -1).unsqueeze(1)).exp().flatten().detach()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    samples = model.sample(z.expand(20_000, -1), torch.Generator().manual_seed(0)).flatten(1)
    frequency = torch.bincount((samples @ torch.tensor([1.0, 2, 4, 8])).long(), minlength=16) / 20_000
    assert ((frequency - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all()


@pytest.mark.parametrize("architecture", [*AUTOREGRESSIVE, "cnn"])
def test_samples_of_an_example_match_single_ones(architecture):
    torch.manual_seed(0)
    model = build_image_model(replace(MODEL, architecture=architecture)).eval()
    x, z = torch.rand(3, 1, 7, 7).round(), torch.randn(3, 4, 3)
    expected = torch.stack([model.log_prob(x, z[:, s : s + 1])[:, 0] for s in range(4)], dim=1)
    torch.testing.assert_close(model.log_prob(x, z), expected, rtol=1e-5, atol=1e-4)


def test_fixed_statistics_keep_running_averages():
    norm = nn.BatchNorm2d(2)
    x = torch.randn(4, 2, 3, 3) + 5
    expected = norm(x)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with fixed_statistics(norm):
        torch.testing.assert_close(norm(x), expected)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    norm.eval()
    with fixed_statistics(norm):
        evaluated = norm(x)
    assert torch.equal(evaluated, norm(x)) and norm.track_running_stats
