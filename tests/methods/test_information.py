"""Losses that raise mutual information, against sums over prefixes, closed forms and known channels."""

import math
from types import SimpleNamespace

import pytest
import torch

from bench.core.config import TextModelConfig
from bench.data.dataset import END, PAD, START
from bench.methods.infomax_vae import InfoMaxVAE
from bench.methods.twr_vae import TimestepWiseVAE
from bench.models.distributions import Gaussian
from bench.models.text import build_text_model
from tests.methods.gaussians import context, elbo_terms, generator


@pytest.fixture(scope="module")
def sentences() -> torch.Tensor:
    """Three sentences of 2, 4 and 9 words, padded."""
    words = torch.randint(4, 20, (3, 11), generator=generator())
    words[:, 0] = START
    for row, length in zip(words, (2, 4, 9), strict=True):
        row[length + 1] = END
        row[length + 2 :] = PAD
    return words


@pytest.mark.parametrize(("last", "steps"), [(1.0, [4, 6, 11]), (0.5, [2, 3, 6]), (0.25, [1, 2, 3]), (0.0, [1, 1, 1])])
def test_twr_averages_the_kls_of_prefixes(last, steps, sentences):
    """The KL and its gradient equal those of encoding every prefix by itself."""
    model = build_text_model(TextModelConfig(latent_dim=3, embedding=6, hidden=8), 20, 11).double()
    torch.nn.init.normal_(model.head.linear.weight, generator=generator())
    encoder = [*model.features.parameters(), *model.head.parameters()]
    method = TimestepWiseVAE(TimestepWiseVAE.Config(last=last))
    terms = method.elbo_terms(context(model=model, generator=lambda: generator()), sentences)
    expected = []
    for x, count in zip(sentences, steps, strict=True):
        length = int((x != PAD).sum())
        prefixes = [x[:stop].unsqueeze(0) for stop in range(length - count + 1, length + 1)]
        expected.append(torch.stack([model.prior.kl(model.encode(prefix)).squeeze() for prefix in prefixes]).mean())
    assert torch.allclose(terms.kl, torch.stack(expected)) and torch.allclose(terms.kl_dim.sum(-1), terms.kl)
    gradients = (torch.autograd.grad(loss, encoder) for loss in (terms.kl.sum(), sum(expected)))
    assert all(torch.allclose(one, other) for one, other in zip(*gradients, strict=True))


def gaussian_channel(batch: int, noise: float, seed: int = 0):
    """x ~ N(0, 1) and z = x + noise: terms with the mutual information ½ log(1 + 1 / noise²), and the best critic."""
    x = torch.randn(batch, 1, generator=generator(seed), dtype=torch.float64)
    q = Gaussian(x, torch.full_like(x, 2 * math.log(noise)))
    terms = elbo_terms(q, q.rsample(1, generator(seed + 1)))
    terms.extra["read"] = x
    marginal = Gaussian(torch.zeros(1, 1).double(), torch.full((1, 1), math.log(1 + noise**2)).double())

    def critic(inputs: torch.Tensor) -> torch.Tensor:
        x, z = inputs.split(1, dim=-1)
        log_q = Gaussian(x, q.logvar).log_prob(z.unsqueeze(1))
        return 1 + log_q - marginal.log_prob(z.unsqueeze(0)).T

    return terms, critic


def estimate(terms, critic, seed: int = 2) -> torch.Tensor:
    model = SimpleNamespace(aux={"critic": critic})
    return InfoMaxVAE().information(context(model=model, generator=lambda _: generator(seed)), terms)


def test_infomax_estimates_the_information_of_a_channel(subtests):
    for noise in (3.0, 1.0):
        with subtests.test(noise=noise):
            terms, critic = gaussian_channel(200_000, noise)
            assert estimate(terms, critic).item() == pytest.approx(0.5 * math.log(1 + noise**-2), abs=0.01)
            assert estimate(terms, lambda inputs: 0.7 * critic(inputs)) < estimate(terms, critic) - 1e-3
            assert estimate(terms, lambda inputs: torch.ones(len(inputs), 1).double()) == 0


def test_infomax_rewards_information_per_nat_in_the_loss():
    terms, critic = gaussian_channel(500, 1.0)
    ctx = context(model=SimpleNamespace(aux={"critic": critic}), generator=lambda _: generator(2))
    method = InfoMaxVAE(InfoMaxVAE.Config(gamma=7.0))
    assert method.loss(ctx, terms).item() == pytest.approx((terms.kl.mean() - 7 * estimate(terms, critic)).item())
