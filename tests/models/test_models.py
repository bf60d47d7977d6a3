"""Models: sizes as published, causality, the cropped masked convolution against the whole one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.core.config import ImageModelConfig
from bench.experiment.presets import load_preset
from bench.models.build import reference_parameters
from bench.models.image import MaskedConv, build_image_model
from bench.models.vae import fixed_statistics
from tests.conftest import MODEL


def count(*modules: nn.Module) -> int:
    return sum(reference_parameters(module) for module in modules)


def test_paper_sizes_are_the_published_ones():
    model = build_image_model(ImageModelConfig())
    assert count(model.features, model.head) == 752_448
    assert count(model.latent_to_decoder, model.decoder) == 894_400
    assert count(build_image_model(ImageModelConfig(), latent=False)) == 778_368


def test_masked_taps_are_those_of_the_paper():
    """325,184 counted taps are always zero, so 569,216 parameters of the decoder are free."""
    model = build_image_model(ImageModelConfig())
    held = [m for m in model.modules() if isinstance(m, MaskedConv)]
    always_zero = sum(m.reference_parameters - int(m.mask.sum()) for m in held)
    assert always_zero == 325_184
    assert count(model.latent_to_decoder, model.decoder) - always_zero == 569_216


@pytest.mark.parametrize("name", ["quick", "small", "paper"])
def test_presets_build_their_models(name):
    config = load_preset(name, "image").model
    model = build_image_model(config).eval()
    x = torch.zeros(2, 1, config.image_size, config.image_size)
    assert model.log_prob(x, model.encode(x).rsample(3)).shape == (2, 3)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_cropped_masked_convolution_equals_the_whole_kernel(size, centre):
    torch.manual_seed(size)
    cropped = MaskedConv(3, 4, size, centre).double()
    reach = size // 2
    whole = torch.zeros(4, 3, size, size, dtype=torch.float64)
    whole[:, :, : reach + 1] = cropped.weight.detach()
    mask = torch.ones(size, size)
    mask[reach, reach + centre :] = 0
    mask[reach + 1 :] = 0
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(cropped(F.pad(x, (0, 0, reach, 0))), F.conv2d(x, whole * mask, padding=reach))


def test_masked_taps_get_no_gradient():
    layer = MaskedConv(2, 3, 5, centre=True)
    layer(torch.randn(2, 2, 6, 6)).square().sum().backward()
    assert (layer.weight.grad[layer.mask == 0] == 0).all()
    assert (layer.weight.grad[layer.mask == 1] != 0).any()


def test_decoder_is_causal_in_the_image_and_open_to_z():
    torch.manual_seed(0)
    model = build_image_model(MODEL).eval().double()
    x, z = torch.rand(1, 1, 7, 7, dtype=torch.float64).round(), torch.randn(1, 3, dtype=torch.float64)

    def logits(x, z):
        decoder = model.decoder
        return decoder(decoder.image_projection(x) + model.latent_to_decoder(z)).flatten()

    dependence = torch.autograd.functional.jacobian(lambda x: logits(x, z), x).reshape(49, 49)
    assert (dependence.triu() == 0).all(), "a pixel sees itself or one after it"
    assert (dependence.tril(-1) != 0).any(1)[1:].all(), "a pixel sees none of those before it"
    assert (torch.autograd.functional.jacobian(lambda z: logits(x, z), z) != 0).any(-1).all()


@pytest.mark.parametrize("latent", [True, False])
def test_sampling_agrees_with_the_likelihood(latent):
    """Frequencies of whole images, drawn pixel by pixel, are those that log p(x|z) says: 4 pixels, 16 images."""
    config = ImageModelConfig(2, "mean", 2, (3,), 4, 4, (3, 3), (), 2)
    torch.manual_seed(1)
    model = build_image_model(config, latent).eval()
    z = torch.zeros(1, model.latent_dim)
    every = torch.tensor([[(i >> b) & 1 for b in range(4)] for i in range(16)]).float().reshape(16, 1, 2, 2)
    p = model.log_prob(every, z.expand(16, -1).unsqueeze(1)).exp().flatten().detach()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = model.sample(z.expand(20_000, -1), torch.Generator().manual_seed(0)).flatten(1)
    code = (drawn @ torch.tensor([1.0, 2, 4, 8])).long()
    frequency = torch.bincount(code, minlength=16) / 20_000
    assert ((frequency - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all()


def test_fixed_statistics_normalises_by_the_batch_without_moving_averages():
    norm = nn.BatchNorm2d(2)
    x = torch.randn(4, 2, 3, 3) + 5
    expected = norm(x)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with fixed_statistics(norm):
        torch.testing.assert_close(norm(x), expected)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    norm.eval()
    with fixed_statistics(norm):
        still = norm(x)
    assert torch.equal(still, norm(x)) and norm.track_running_stats


def test_samples_share_the_images_part_of_the_first_layer():
    torch.manual_seed(0)
    model = build_image_model(MODEL).eval()
    x, z = torch.rand(3, 1, 7, 7).round(), torch.randn(3, 4, 3)
    one_by_one = torch.stack([model.log_prob(x, z[:, s : s + 1])[:, 0] for s in range(4)], dim=1)
    torch.testing.assert_close(model.log_prob(x, z), one_by_one, rtol=1e-5, atol=1e-4)
