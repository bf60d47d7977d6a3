"""Models of the preset ``quick`` on a GPU: likelihoods and gradients of the CPU, decoding, precision, compilation."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.experiment.benchmark import random_data
from bench.models.compilation import compile_networks
from bench.models.decoding import beam, greedy
from bench.models.precision import tf32
from bench.training.trainer import Trainer
from tests.gpu.conftest import DEVICE, Toys, host_randomness, needs_cuda, relative_distance

pytestmark = pytest.mark.gpu
MODALITIES = ["image", "text"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    return {name: random_data(f"{name}:quick", folder)[::-1] for name in MODALITIES}


@pytest.fixture
def quick(data, tmp_path: Path) -> Toys:
    """Cells of the preset ``quick`` on random data."""
    return Toys(data, tmp_path)


def loss_and_gradients(run: Trainer) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return log p(x|z) per example, the method's loss, and its gradients by parameter."""
    run.start_phase(0)
    run.model.train()
    if hasattr(run.model.decoder, "dropout"):
        run.model.decoder.dropout = 0.0
    run.ctx.reseed_streams("step", 0)
    x = run.ctx.next_main_batch()
    terms = run.method.elbo_terms(run.ctx, x)
    loss = run.method.loss(run.ctx, terms)
    loss.backward()
    gradients = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    return -terms.rec.detach().cpu(), loss.detach().cpu(), gradients


@pytest.mark.parametrize("expression", ["vae", "iwae", "sa_vae(steps=3)", "iaf_posterior", "vamp_prior"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_likelihoods_and_gradients_match_the_cpu(modality, expression, quick):
    """Of SA-VAE through the second gradient of the decoder."""
    expected_rec, expected_loss, expected = loss_and_gradients(quick.trainer(expression, modality, "cpu", "cpu"))
    with host_randomness():
        rec, loss, gradients = loss_and_gradients(quick.trainer(expression, modality, DEVICE, "device"))
    torch.testing.assert_close(rec, expected_rec, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-4)
    scale = torch.cat([g.flatten() for g in expected.values()]).norm()
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient.cpu() - expected[name]).norm() < 1e-4 * max(scale, expected[name].norm()), name


def test_decoded_sentences_match_the_cpu(quick):
    """Greedy and by beam search; sampled ones have the words that the model allows."""
    rows = []
    for device in ("cpu", DEVICE):
        run = quick.trainer("vae", "text", device, device + "-run")
        model = run.model.eval()
        torch.manual_seed(0)
        for parameter in model.parameters():  # larger than at initialisation, so that sentences depend on z
            parameter.data = torch.randn(parameter.shape).mul_(0.3).to(device)
        code = model.latent_to_decoder(torch.randn(4, model.latent_dim).to(device))
        rows.append([greedy(model.decoder, code).cpu(), beam(model.decoder, code, width=2).cpu()])
    assert all(map(torch.equal, *rows))
    sampled = model.decoder.sample(code, torch.Generator(DEVICE).manual_seed(0))
    assert len(sampled) == 4 and sampled.device.type == DEVICE and sampled[:, 1:].min() >= 0


@needs_cuda
def test_tf32_rounds_products_only_within_its_context():
    a, b = torch.randn(2, 512, 512, device=DEVICE)
    exact = a.double() @ b.double()
    with tf32():
        rounded = a @ b
    assert 1e-5 < relative_distance(rounded, exact) < 1e-2
    assert relative_distance(a @ b, exact) < 1e-5


@pytest.mark.parametrize("precision", [pytest.param("tf32", marks=needs_cuda), "bfloat16"])
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("expression", ["vae", "sa_vae(steps=2)"])
def test_reduced_precision_is_close_to_float32(expression, modality, precision, quick):
    settings = {"epochs": 1, "epoch_updates": 6 if modality == "image" else 2, "val_examples": 32, "lag_examples": 0}
    exact, rounded = (
        quick.trainer(expression, modality, DEVICE, name, **settings, precision=name) for name in ("float32", precision)
    )
    exact.run()
    rounded.run()
    (expected,), (result,) = exact.history, rounded.history
    tolerance = 0.01 if modality == "image" else 0.04  # steps of SGD at the learning rate 1 magnify rounding
    assert math.isclose(result.train_loss, expected.train_loss, rel_tol=tolerance)
    assert math.isclose(result.metrics["elbo"], expected.metrics["elbo"], rel_tol=tolerance)
    assert not all(map(torch.equal, exact.model.parameters(), rounded.model.parameters())), "nothing was rounded"
    assert all(p.dtype == torch.float32 for p in rounded.model.parameters())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("modality", MODALITIES)
def test_compiled_training_matches_eager(modality, quick):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = {"epochs": 1, "epoch_updates": 6, "val_examples": 32, "lag_examples": 0}
    eager, compiled = (quick.trainer("vae", modality, DEVICE, name, **settings) for name in ("eager", "compiled"))
    compile_networks(compiled.model, dynamic=modality == "text")
    eager.run()
    compiled.run()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2, "nothing was compiled"
    (expected,), (result,) = eager.history, compiled.history
    assert math.isclose(result.train_loss, expected.train_loss, rel_tol=1e-3)
    assert math.isclose(result.metrics["elbo"], expected.metrics["elbo"], rel_tol=1e-3)
