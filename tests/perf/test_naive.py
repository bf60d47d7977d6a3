"""The naive formulation is the same function as the models: loss, gradients, NLL, and the reverse pass of SA-VAE."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from bench.methods.sa_vae import SemiAmortisedVAE
from torch import Tensor

from bench.core.config import TrainConfig
from bench.data import tensors
from bench.evaluation.metrics import log_weights
from bench.method import Context, ELBOTerms
from bench.models.build import build_model
from bench.models.vae import VAE
from tests.conftest import MODEL, TEXT_MODEL
from tests.perf.naive import FullMaskedConv, NaiveTraining, naive, naive_nll
from tests.perf.naive_sa import NaiveRefinement


@pytest.fixture(params=["image", "text"])
def pair(request, prepared, text_prepared) -> tuple[VAE, VAE, Tensor]:
    """A model in double precision, its naive copy, a batch."""
    torch.manual_seed(0)
    sizes = MODEL if request.param == "image" else replace(TEXT_MODEL, dropout=0.0)
    data = tensors.load(prepared if request.param == "image" else text_prepared, sizes)
    model = build_model(sizes, data.info).double()
    with torch.no_grad():
        for p in model.parameters():  # large enough that nothing vanishes, and no two layers alike
            p.copy_(torch.randn_like(p) * 0.3 + (p.dim() == 1))
    _, (x,) = data.blocks("test", 6, 6)
    return model, naive(model), x.double() if x.is_floating_point() else x


def close(one: Tensor, other: Tensor, tolerance: float = 1e-9) -> bool:
    return (one - other).norm().item() <= tolerance * other.norm().item()


def assert_same_gradients(model: VAE, plain: VAE, tolerance: float = 1e-9) -> None:
    """Of every parameter: laid out as ``plain`` has them, our gradients are its own, but for masked taps."""
    ours = copy.deepcopy(model)
    for p, like in zip(ours.parameters(), model.parameters(), strict=True):
        p.data = like.grad
    masks = {f"{name}.weight": m.mask for name, m in plain.named_modules() if isinstance(m, FullMaskedConv)}
    expected = dict(naive(ours).named_parameters())
    for name, p in plain.named_parameters():
        assert close(p.grad * masks.get(name, 1), expected[name], tolerance), name


def test_loss_and_gradients_are_the_same(pair):
    model, plain, x = pair
    q = model.encode(x)
    terms = ELBOTerms.from_samples(model, x, q, q.rsample(1, torch.Generator().manual_seed(1)))
    loss = terms.rec.mean() + terms.kl.mean()
    loss.backward()
    other = NaiveTraining(plain, "adam", 1e-3).loss(x, torch.Generator().manual_seed(1))
    other.backward()
    assert close(loss.detach(), other.detach())
    assert_same_gradients(model, plain)


def test_nll_is_the_same(pair):
    model, plain, x = pair
    model.eval(), plain.eval()
    with torch.no_grad():
        q = model.encode(x)
        torch.manual_seed(2)
        weights = log_weights(model, x, q, q.rsample(20), chunk=30)
    torch.manual_seed(2)
    assert close(-(weights.logsumexp(1) - torch.tensor(20.0).log()), naive_nll(plain, x, samples=20, at_once=20), 1e-7)


class Noise(Context):
    """Just enough of a context for a posterior: the noise of ``noise``."""

    def __init__(self, model: VAE, purposes: dict[str, int]):
        self.model, self.purposes, self.train = model, purposes, TrainConfig()

    def generator(self, purpose: str = "noise") -> torch.Generator:
        return torch.Generator().manual_seed(self.purposes[purpose])


@pytest.mark.parametrize("clip", [28.0, 0.5])
def test_refinement_and_its_gradient_are_the_same(pair, clip):
    model, plain, x = pair
    method = SemiAmortisedVAE(SemiAmortisedVAE.Config(steps=3, clip=clip))
    ctx = Noise(model, {"noise": 3, "refine": 4})
    ctx.beta = 1.0
    loss = method.objective(ctx, x)
    loss.backward()
    shape = (len(x), model.latent_dim)
    of_steps = torch.randn(3, *shape, generator=ctx.generator("refine"), dtype=torch.float64)
    of_sample = torch.randn(len(x), 1, model.latent_dim, generator=ctx.generator(), dtype=torch.float64).squeeze(1)
    noise = torch.cat([of_steps, of_sample[None]])
    other = NaiveRefinement(plain, "adam", 1e-3, steps=3, clip=clip).backward(x, noise)
    assert close(loss.detach(), other.detach())
    assert_same_gradients(model, plain)
    plain.zero_grad()
    NaiveRefinement(plain, "adam", 1e-3, steps=3, clip=clip, differences=1e-4).backward(x, noise)
    assert_same_gradients(model, plain, 1e-4)
