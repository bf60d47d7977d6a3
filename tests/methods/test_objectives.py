"""Losses of methods against closed forms and limits."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import integrate, spatial, special, stats
from torch import nn

from bench.data.dataset import PAD, UNKNOWN
from bench.method import ELBOTerms
from bench.methods.autoencoder import Autoencoder
from bench.methods.coupled_vae import match_distance
from bench.methods.dg_vae import DensityGapVAE
from bench.methods.dreg import DoublyReparametrisedIWAE
from bench.methods.info_vae import InfoVAE
from bench.methods.iwae import ImportanceWeightedAutoencoder
from bench.methods.kl_capacity import KLCapacity
from bench.methods.mae import MutualPosteriorDivergence, pairwise_kl
from bench.methods.mim import MutualInformationMachine as MIM
from bench.methods.mu_forcing import MuForcing
from bench.methods.neural_critic import Critic
from bench.methods.parts.free_bits import PLACEMENTS, FreeBits
from bench.methods.parts.mmd import SCALES, mmd, multiquadric
from bench.methods.pretrained_free_bits import PretrainedFreeBits
from bench.methods.self_critic import SelfCritic
from bench.methods.wae_mmd import WassersteinAutoencoder
from bench.models.architectures.lstm import LatentState
from bench.models.distributions import Gaussian, StandardNormal, gaussian_kl
from tests.conftest import TEXT_TRAIN
from tests.methods.gaussians import context, elbo_terms, gaussians, generator, split


def test_free_bits_have_the_gradient_of_a_mask(subtests):
    for placement in PLACEMENTS:
        with subtests.test(placement=placement):
            kl_dim = torch.rand(20, 4, generator=generator(), dtype=torch.float64).requires_grad_()
            target = 2.0 if placement != "total_batch" else 1.5
            FreeBits(target, placement)(kl_dim.sum(-1), kl_dim).backward()
            masked = kl_dim.detach().clone().requires_grad_()
            axis, reduction = placement.split("_")
            kl = masked if axis == "dim" else masked.sum(-1, keepdim=True)
            kl = kl.mean(0, keepdim=True) if reduction == "batch" else kl
            mask = (kl > (target / 4 if axis == "dim" else target)).detach()
            (mask * kl).sum(-1).mean().backward()
            assert torch.allclose(kl_dim.grad, masked.grad) and kl_dim.grad.count_nonzero() > 0


def test_free_bits_without_kl_per_dimension_fail():
    with pytest.raises(ValueError, match="placement=total_example"):
        FreeBits(4.0)(torch.ones(3), None)


def test_kl_capacity_has_a_kink_at_the_capacity(subtests):
    """C = 0.5 · 5: the slope in the mean KL is γ above it, and -γ below it or, for the hinge, 0."""
    for form, kl, value, slope in [
        ("absolute", 4, 3, 2),
        ("absolute", 1, 3, -2),
        ("hinge", 4, 3, 2),
        ("hinge", 1, 0, 0),
    ]:
        with subtests.test(form=form, kl=kl):
            terms = elbo_terms(gaussians())
            terms.kl = torch.tensor([kl - 1.0, kl + 1.0], dtype=torch.float64, requires_grad=True)
            method = KLCapacity(KLCapacity.Config(target=5.0, weight=2.0, form=form))
            loss = method.loss(context(beta=0.5), terms)
            loss.backward()
            assert loss.item() == value and terms.kl.grad.tolist() == [slope / 2, slope / 2]


def test_density_gap_matches_quadrature():
    q, method = gaussians(batch=4, dim=2), DensityGapVAE()
    terms = elbo_terms(q)
    grid = np.linspace(-12, 12, 20_001)
    expected = 0.0
    for d in range(2):
        density = stats.norm.pdf(grid[:, None], q.mean[:, d].numpy(), q.logvar[:, d].div(2).exp().numpy()).mean(1)
        expected += integrate.trapezoid(density * (np.log(density + 1e-300) - stats.norm.logpdf(grid)), grid)
    estimates = []
    for part in q.rsample(20_000, generator(1)).split(500, dim=1):
        terms.extra["aggregate"] = part
        estimates.append(method.kl_loss(terms).item())
    assert np.mean(estimates) == pytest.approx(expected, abs=4 * np.std(estimates) / math.sqrt(len(estimates)))


def test_mmd_is_unbiased():
    values = []
    for seed in range(1000):
        a, b = torch.randn(2, 12, 3, generator=generator(seed), dtype=torch.float64)
        values.append(mmd(a, b).item())
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(1000)
    shifted = mmd(torch.randn(200, 3, generator=generator()), torch.randn(200, 3, generator=generator(1)) + 2)
    assert shifted > 10 * np.std(values)
    assert mmd(torch.ones(1, 3), torch.zeros(1, 3)) == 0


def test_info_vae_penalty_is_small_where_q_is_the_prior():
    """Its standard deviation with the default λ for 16 examples in two dimensions is below 4 nats, by closed form.

    The unbiased MMD² has variance 4 ζ (1 / (n (n - 1)) + 1 / n²), with ζ the variance of the centred kernel.
    """
    n, dim, method = 16, 2, InfoVAE()
    penalties = []
    for seed in range(300):
        q = Gaussian(*torch.zeros(2, n, dim, dtype=torch.float64))
        terms = elbo_terms(q, q.rsample(1, generator(seed)))
        ctx = context(generator=lambda purpose, seed=seed: generator(10_000 + seed))
        ctx.model.prior = StandardNormal(dim)
        penalties.append(method.loss(ctx, terms).item())
    x, y = torch.randn(2, 1000, dim, generator=generator(), dtype=torch.float64)
    kernel = multiquadric(torch.cdist(x, y).square(), dim) / len(SCALES)
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    variance = 4 * centred.square().mean().item() * (1 / (n * (n - 1)) + 1 / n**2)
    expected = (method.config.lam - 1) * math.sqrt(variance)
    assert np.std(penalties) == pytest.approx(expected, rel=0.2)
    assert expected < 4


def test_dg_vae_is_selected_by_its_own_loss():
    """Its loss leaves the mutual information free, which the ELBO counts."""
    apart = Gaussian(torch.linspace(-2, 2, 40, dtype=torch.float64).unsqueeze(1), torch.full((40, 1), -2.0).double())
    terms, method = elbo_terms(apart), DensityGapVAE()
    terms.extra["aggregate"] = apart.rsample(200, generator())
    assert method.loss(context(), terms) < terms.kl.mean() - 1
    assert [phase.selection_metric for phase in method.phases()] == ["loss"]


def test_methods_without_a_kl_have_a_floor_with_a_gradient():
    for method, floor in ((Autoencoder, -6), (PretrainedFreeBits, -6), (WassersteinAutoencoder, -6), (MIM, -10)):
        model = SimpleNamespace(head=split, latent_to_decoder=nn.Identity(), decoder=nn.Identity())
        head = method().build(model, None).head
        logvar = torch.tensor([[-30.0], [-12.0], [0.0], [30.0]], dtype=torch.float64, requires_grad=True)
        q = head(torch.cat([torch.zeros_like(logvar), logvar], dim=1))
        assert torch.allclose(q.logvar.exp(), logvar.exp() + math.exp(floor))
        assert StandardNormal(1).kl(q)[0] < -floor / 2
        StandardNormal(1).kl(q).sum().backward()
        assert (logvar.grad[:2] < 0).all(), "the KL cannot raise the variance again"


def test_coupled_vae_matches_the_learned_layer_only():
    """With W = 0 the decoder's initial state does not depend on z, and neither does the match; W z does."""
    z, code = torch.randn(2, 5, 3, generator=generator())
    projection, twin = LatentState(3, 8), LatentState(3, 8)
    nn.init.zeros_(projection.linear.weight)
    nn.init.zeros_(twin.linear.weight)
    assert match_distance(projection, twin, z, code) == match_distance(projection, twin, 9 * z, code) == -len(SCALES)
    nn.init.normal_(projection.linear.weight, generator=generator())
    assert match_distance(projection, twin, z, code) > match_distance(projection, twin, z / 9, code)


def test_coupled_vae_kernels_have_the_width_of_the_latent():
    """C = 2 D s, whatever the size of the layer after z."""
    for hidden in (8, 80):
        projection, twin = LatentState(3, hidden), LatentState(3, hidden)
        nn.init.constant_(projection.linear.weight, 1.0)
        nn.init.zeros_(twin.linear.weight)
        z = torch.tensor([[1.0, 2.0, -1.0]])
        squared = hidden * 2.0**2
        expected = -sum(2 * 3 * s / (2 * 3 * s + squared) for s in SCALES)
        assert match_distance(projection, twin, z, z).item() == pytest.approx(expected)


def test_cr_vae_corrupts_words_for_the_encoder_only(text_trainer, tmp_path):
    """After training with half of the words replaced by <unk>, the decoder does not write it."""
    train = replace(TEXT_TRAIN, epochs=1, epoch_updates=20, optimiser="adam", lr=5e-2)
    run = text_trainer("cr_vae(noise=0.5)", tmp_path, train)
    run.run()
    model = run.model.eval()
    x = run.data.val[:20]
    with torch.no_grad():
        code = model.latent_to_decoder(model.encode(x).mean)
        states, _ = model.decoder.states(x[:, :-1], code, model.decoder.start(code))
        probabilities = model.decoder.output(states).softmax(-1)[..., UNKNOWN]
    assert probabilities[x[:, 1:] != PAD].mean() < 0.02


def test_gaussian_kls_match_torch():
    q = gaussians()
    normal = torch.distributions.Normal(q.mean, q.logvar.div(2).exp())
    i, j = 1, 4
    first, second = (torch.distributions.Normal(normal.mean[k], normal.stddev[k]) for k in (i, j))
    expected = torch.distributions.kl_divergence(first, second)
    assert torch.allclose(pairwise_kl(q.mean, q.logvar)[i, j], expected)
    single = [Gaussian(q.mean[k : k + 1], q.logvar[k : k + 1]) for k in (i, j)]
    assert torch.allclose(gaussian_kl(*single), expected.sum())


def test_mae_rewards_posteriors_that_are_evenly_apart():
    method = MutualPosteriorDivergence(MutualPosteriorDivergence.Config(eta=1.0, gamma=1.0))
    near, far = (
        elbo_terms(Gaussian(scale * torch.eye(3).double(), torch.zeros(3, 3).double())) for scale in (0.1, 2.0)
    )
    penalties = [(method.loss(context(), terms) - terms.kl.mean()).item() for terms in (near, far)]
    assert penalties[1] < penalties[0]  # all pairs are equally far apart, so S = 0
    uneven = elbo_terms(Gaussian(torch.tensor([[0.0], [0.0], [3.0]]).double(), torch.zeros(3, 1).double()))
    k = pairwise_kl(uneven.q.mean, uneven.q.logvar)[~torch.eye(3, dtype=torch.bool)]
    expected = -math.log(1 / (1 + math.exp(-k.mean().item()))) + k.sum(-1).std().item()
    assert (method.loss(context(), uneven) - uneven.kl.mean()).item() == pytest.approx(expected)


def test_self_critic_bounds_mutual_information(subtests):
    """log B minus the critic's loss: log B for distinct posteriors, 0 for identical ones."""
    for scale, expected in [(30.0, math.log(6)), (0.0, 0.0)]:
        with subtests.test(scale=scale):
            q = Gaussian(scale * torch.arange(6.0).unsqueeze(1).expand(-1, 3), torch.zeros(6, 3))
            terms = elbo_terms(Gaussian(q.mean.double(), q.logvar.double()), q.rsample(1, generator()).double())
            bound = (
                math.log(6) - (SelfCritic(SelfCritic.Config(lam=1.0)).loss(context(), terms) - terms.kl.mean()).item()
            )
            assert bound == pytest.approx(expected, abs=1e-6)


def test_mu_forcing_penalises_spread_below_the_margin(subtests):
    for spread, expected in [(0.0, 3 * 0.5), (1.0, 0.0)]:
        with subtests.test(spread=spread):
            mean = spread * torch.tensor([[-1.0] * 3, [1.0] * 3]).double()
            terms = elbo_terms(Gaussian(mean, torch.zeros(2, 3).double()))
            penalty = MuForcing(MuForcing.Config(margin=0.5)).loss(context(), terms) - terms.kl.mean()
            assert penalty.item() == pytest.approx(expected)


def test_mu_forcing_asks_for_the_published_kl():
    """At the default margin the loss has no penalty, and the KL is the 20.6 nats of the authors' notebook, or less."""
    mean = math.sqrt(2.5) * torch.tensor([[-1.0] * 16, [1.0] * 16]).double()
    terms = elbo_terms(Gaussian(mean, torch.zeros(2, 16).double()))
    assert MuForcing().loss(context(), terms) == terms.kl.mean() == pytest.approx(20.0)
    closer = elbo_terms(Gaussian(0.99 * mean, torch.zeros(2, 16).double()))
    assert MuForcing().loss(context(), closer) > closer.kl.mean()


def test_iwae_bound_rises_to_the_evidence():
    """p(x|z) = N(x; z, 1) in three dimensions, so p(x) = N(x; 0, 2); q is shifted and too wide."""
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    q = Gaussian((x / 2 + 0.3).expand(4000, -1), torch.zeros(4000, 3, dtype=torch.float64))
    log_px = stats.norm.logpdf(x.numpy(), scale=math.sqrt(2)).sum()
    bounds = []
    for samples in (1, 5, 50):
        z = q.rsample(samples, generator())
        rec = 0.5 * ((x - z).square() + math.log(2 * math.pi)).sum(-1)
        loss = ImportanceWeightedAutoencoder().loss(context(), ELBOTerms(None, q, z, rec, None, None))
        bounds.append(-loss.item())
    assert bounds[0] < bounds[1] - 0.1 < bounds[2] - 0.1 < log_px
    assert bounds[2] == pytest.approx(log_px, abs=0.1)


def encoder_gradients(method, samples, mean, variance, a=0.8):
    """Gradients of (mean, log variance) for 20,000 draws, and that of ``a``: p(x|z) = N(x; a z, 1) for x = 1.5."""
    parameters = torch.tensor([[mean, math.log(variance)]] * 20_000, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    model = SimpleNamespace(
        prior=StandardNormal(1),
        encode=lambda x: split(parameters),
        log_prob=lambda x, z: -0.5 * ((1.5 - a * z).square() + math.log(2 * math.pi)).sum(-1),
    )
    ctx = context(model=model, generator=lambda: generator())
    method(method.Config(samples=samples)).objective(ctx, None).backward()
    return len(parameters) * parameters.grad, a.grad


def test_dreg_is_unbiased_with_a_lower_variance():
    (iwae, iwae_decoder), (dreg, dreg_decoder) = (
        encoder_gradients(method, 5, mean=0.2, variance=0.7)
        for method in (ImportanceWeightedAutoencoder, DoublyReparametrisedIWAE)
    )
    difference = dreg - iwae
    assert (difference.mean(0).abs() < 4 * difference.std(0) / math.sqrt(len(difference))).all()
    assert (dreg.std(0) < 0.6 * iwae.std(0)).all()
    assert torch.allclose(dreg_decoder, iwae_decoder)


def test_dreg_has_no_variance_at_the_exact_posterior():
    gradient, _ = encoder_gradients(DoublyReparametrisedIWAE, 5, mean=0.8 * 1.5 / 1.64, variance=1 / 1.64)
    assert gradient.abs().max() < 1e-12


def test_neural_critic_matches_scipy():
    z, x = torch.randn(2, 5, 3, generator=generator())
    critic = Critic(nn.Identity(), 3, 3, hidden=4, outputs=2)
    with torch.no_grad():
        codes, examples = critic.z_layers(z).numpy(), critic.x_layers(x).numpy()
        bound = critic.bound(z, x).item()
    logits = (1 - spatial.distance.cdist(codes, examples, "cosine")) / 0.07
    log_probs = [special.log_softmax(logits, axis=axis).diagonal().mean() for axis in (0, 1)]
    assert bound == pytest.approx(math.log(5) + np.mean(log_probs), abs=1e-4)
