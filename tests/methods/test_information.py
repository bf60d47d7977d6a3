"""Losses that raise mutual information, against sums over prefixes, closed forms and known channels."""

import math
from types import SimpleNamespace

import pytest
import torch

from bench.core.config import TextModelConfig
from bench.data.dataset import END, PAD, START
from bench.methods.infomax_vae import InfoMaxVAE
from bench.methods.lagrangian_vae import LagrangianVAE
from bench.methods.latent_reconstruction import LatentReconstruction
from bench.methods.twr_vae import TimestepWiseVAE
from bench.models.distributions import Gaussian, StandardNormal
from tests.fixtures.networks import build_text_model
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


def lagrangian_terms(rec: float = 50.0, kl: float = 3.0, divergence: float = 0.004):
    terms = elbo_terms(Gaussian(torch.full((2, 1), math.sqrt(2 * kl)).double(), torch.zeros(2, 1).double()))
    terms.rec = torch.full((2, 1), rec, dtype=torch.float64)
    terms.extra["mmd"] = torch.tensor(divergence, dtype=torch.float64)
    return terms


@pytest.mark.parametrize("mi", [1.0, 0.0, -2.0])
def test_lagrangian_is_the_authors_divided_by_the_weight_of_rec(mi):
    """max(m, 0) rec + max(-m, 0) KL + λ_1 (rec + KL) + λ_2 s MMD², without the constants."""
    method = LagrangianVAE(LagrangianVAE.Config(mi=mi))
    method.multipliers = torch.tensor([0.5, 3.0])
    expected = max(mi, 0) * 50 + max(-mi, 0) * 3 + 0.5 * (50 + 3) + 3 * 100 * 0.004
    main = context(phase=method.phases()[1])
    assert method.loss(main, lagrangian_terms()).item() * (0.5 + max(mi, 0)) == pytest.approx(expected)
    assert method.loss(context(phase=method.phases()[0]), lagrangian_terms()).item() == pytest.approx(53)


def test_lagrangian_multipliers_ascend_by_rmsprop():
    """Steps of lr · g / √(mean square), with means that start at 1 and decay by a tenth per update."""
    method = LagrangianVAE(LagrangianVAE.Config(bound=50.0, lr=0.1))
    main = context(phase=method.phases()[1])
    expected, square = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for negative_elbo, divergence in [(53.0, 0.004), (48.0, 0.05), (50.5, -0.01)]:
        method.update_weight(main, torch.tensor([negative_elbo, divergence]))
        gradient = torch.tensor([negative_elbo - 50, 100 * (divergence - 0.002)], dtype=torch.float64)
        square = 0.9 * square + 0.1 * gradient**2
        expected += 0.1 * gradient / square.sqrt()
    assert torch.allclose(method.multipliers.double(), expected)


@pytest.mark.parametrize("mi", [1.0, -0.5])
def test_lagrangian_keeps_its_bound_on_the_elbo(mi):
    """A model with rec = 20 exp(-KL / 5), whose KL follows the weights of the loss; its best ELBO is -13."""
    method = LagrangianVAE(LagrangianVAE.Config(mi=mi, bound=15.0, lr=3e-2))
    main, kl = context(phase=method.phases()[1]), 0.0
    for _ in range(1000):
        rec, kl_weight = (method.multipliers[0].item() + max(sign * mi, 0) for sign in (1, -1))
        optimum = 5 * math.log(4 * rec / kl_weight) if kl_weight < 4 * rec else 0.0
        kl += 0.2 * (optimum - kl)
        method.update_weight(main, torch.tensor([20 * math.exp(-kl / 5) + kl, 0.0]))
    assert 20 * math.exp(-kl / 5) + kl == pytest.approx(15, abs=0.2)
    assert (kl > 5 * math.log(4)) == (mi > 0)  # on the side of more information, or of less


def test_lagrangian_takes_its_bound_from_the_basic_vae():
    method, events = LagrangianVAE(), []
    first, main = (context(phase=phase, log_event=events.append) for phase in method.phases())
    for negative_elbo in (500.0, 42.0):
        for change in (-1, 1):
            method.update_weight(first, torch.tensor([negative_elbo + change, 0.1]))
        method.on_epoch_end(first)
    method.on_phase_start(main)
    assert method.bound.item() == pytest.approx(44) and "44.00" in events[0]


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.05, 1.5), (0.5, 3.0)])
def test_latent_reconstruction_encodes_the_decoder_output(progress, weight):
    """One pixel per dimension with logit z, and an encoder whose mean is half the logit: the error is |z / 2|²."""
    x, q = torch.zeros(4, 1, 1, 3).double(), Gaussian(*torch.zeros(2, 4, 3).double())
    noise = torch.randn(4, 3, generator=generator(), dtype=torch.float64).requires_grad_()
    decoder = SimpleNamespace(image_projection=lambda x: x, logits=lambda code, image: code[:, None, None] + image)
    model = SimpleNamespace(
        decoder=decoder,
        latent_to_decoder=lambda z: z,
        features=torch.nn.Identity(),
        encode=lambda image: Gaussian(image.flatten(1).logit() / 2, q.logvar),
        prior=StandardNormal(3),
    )
    ctx = context(model=model, generator=lambda: None, progress=progress)
    method = LatentReconstruction(LatentReconstruction.Config(alpha=3.0))
    q.rsample = lambda *_: noise.unsqueeze(1)
    method.posterior = lambda *_, **__: q
    terms = method.elbo_terms(ctx, x)
    expected = torch.nn.functional.softplus(noise).sum(-1).mean() + weight * (noise / 2).square().sum(-1).mean()
    loss = method.loss(ctx, terms)
    assert torch.allclose(loss, expected)
    gradients = (torch.autograd.grad(value, noise)[0] for value in (loss, expected))
    assert torch.allclose(*gradients)
