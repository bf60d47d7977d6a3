"""What single methods must hold: closed forms, bounds, limits."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bench.methods.bn_vae import BatchNormVAE, NormalisedHead
from bench.methods.control_vae import ControlVAE
from bench.methods.delta_vae import BoundedHead
from bench.methods.dg_vae import DensityGapVAE
from bench.methods.du_vae import DiverseHead, DiverseUncertainVAE
from bench.methods.geco import GECO
from bench.methods.iwae import ImportanceWeightedAutoencoder
from bench.methods.mae import MutualPosteriorDivergence, pairwise_kl
from bench.methods.mdr import MinimumDesiredRate
from bench.methods.mu_forcing import MuForcing
from bench.methods.parts.brenier import Brenier
from bench.methods.parts.flows import AutoregressiveFlow, Flowed
from bench.methods.parts.free_bits import PLACEMENTS, FreeBits
from bench.methods.parts.mixture import MixturePrior
from bench.methods.parts.mmd import mmd
from bench.methods.parts.vmf import UniformSphere, VonMisesFisher, angles, kl_to_uniform, mean_length
from bench.methods.scale_vae import ScaledHead
from bench.methods.self_critic import SelfCritic
from scipy import integrate, stats

from bench.method import ELBOTerms, Phase
from bench.models.distributions import Gaussian, StandardNormal
from bench.models.vae import reparametrize_prior


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussians(batch: int = 6, dim: int = 3, seed: int = 0) -> Gaussian:
    mean, logvar = torch.randn(2, batch, dim, generator=generator(seed), dtype=torch.float64)
    return Gaussian(mean, logvar)


@pytest.fixture(autouse=True)
def without_gradients():
    """Losses are looked at here, not differentiated; where they are, a test says so."""
    with torch.no_grad():
        yield


def through(h):
    """A head that gives its features as mean and log-variance."""
    return Gaussian(*h.chunk(2, dim=-1))


def terms_of(q: Gaussian, z: torch.Tensor | None = None) -> ELBOTerms:
    prior = StandardNormal(q.mean.shape[1])
    kl_dim = prior.kl_dim(q)
    return ELBOTerms(None, q, z, torch.zeros(len(q.mean), 1, dtype=torch.float64), kl_dim.sum(-1), kl_dim)


def context(**given) -> SimpleNamespace:
    usual = {"beta": 1.0, "model": SimpleNamespace(prior=StandardNormal(3), aux={}), "phase": Phase()}
    return SimpleNamespace(**usual | given)


# -- von Mises–Fisher -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 8, 32])
@pytest.mark.parametrize("kappa", [1.0, 13.0, 100.0])
def test_the_kl_of_a_von_mises_fisher_is_that_of_quadrature(dim, kappa):
    """By integrals over the angle θ to μ alone: density ∝ exp(κ cos θ), area of the shell ∝ sin^(D-2) θ."""

    def over(f):
        return integrate.quad(f, 0, math.pi, epsabs=0, epsrel=1e-11, limit=500)[0]

    def weight(theta):
        return math.exp(kappa * (math.cos(theta) - 1)) * math.sin(theta) ** (dim - 2)

    mass, shells = over(weight), over(lambda theta: math.sin(theta) ** (dim - 2))
    log_ratio = over(lambda theta: weight(theta) * kappa * (math.cos(theta) - 1)) / mass  # of the densities, up to
    expected = log_ratio - math.log(mass) + math.log(shells)
    assert kl_to_uniform(dim, kappa) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dim", [2, 3, 8, 32])
@pytest.mark.parametrize("kappa", [1.0, 13.0, 100.0])
def test_samples_of_a_von_mises_fisher_have_its_mean_and_its_angles(dim, kappa):
    direction = torch.nn.functional.normalize(torch.randn(2, dim, generator=generator()), dim=-1)
    q = VonMisesFisher(direction, kappa, angles(dim, kappa))
    z = q.rsample(20_000, generator(1))
    assert torch.allclose(z.norm(dim=-1), torch.ones(2, 20_000), atol=1e-5)
    along = (z * direction.unsqueeze(1)).sum(-1)
    error = 4 * along.std(1) / math.sqrt(20_000)
    assert ((along.mean(1) - mean_length(dim, kappa)).abs() < error).all()
    assert torch.allclose(q.mean, mean_length(dim, kappa) * direction)
    across = z.mean(1) - along.mean(1, keepdim=True) * direction
    assert across.norm(dim=-1).max() < 5 / math.sqrt(20_000)
    scipys = stats.vonmises_fisher(direction[0].double().numpy() / np.linalg.norm(direction[0].double()), kappa)
    if dim < 9:  # scipy takes its time
        there = scipys.rvs(4_000, random_state=0) @ direction[0].double().numpy()
        assert stats.ks_2samp(along[0, :4_000].numpy(), there).pvalue > 1e-3


def test_the_log_density_of_a_von_mises_fisher_is_scipys():
    direction = torch.nn.functional.normalize(torch.randn(3, 5, generator=generator(), dtype=torch.float64), dim=-1)
    q = VonMisesFisher(direction, 13.0, angles(5, 13.0))
    z = UniformSphere(5).sample(4, generator(1)).double()
    expected = [[stats.vonmises_fisher(mu.numpy(), 13.0).logpdf(point.numpy()) for mu in direction] for point in z]
    assert torch.allclose(q.pairwise_log_prob(z), torch.tensor(np.array(expected)), atol=1e-6)
    assert torch.allclose(q.log_prob(z.expand(3, -1, -1)), torch.tensor(np.array(expected)).T, atol=1e-6)


def test_a_model_on_the_sphere_and_the_same_one_over_a_normal_have_one_likelihood():
    """log p(x) by many samples of either prior."""
    log_px = lambda z: -3 * (z - torch.tensor([0.6, 0.8])).square().sum(-1)  # noqa: E731
    model = SimpleNamespace(prior=UniformSphere(2), latent_dim=2, log_prob=lambda x, z: log_px(z))
    over = reparametrize_prior(model)
    on_sphere = log_px(model.prior.sample(200_000, generator())).logsumexp(0)
    over_normal = over.log_prob(None, over.prior.sample(200_000, generator(1))).logsumexp(0)
    assert on_sphere.item() == pytest.approx(over_normal.item(), abs=0.02)


# -- heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.25])
def test_the_least_kl_of_a_bounded_head_is_delta(delta):
    head = BoundedHead(through, delta)
    h = torch.cat([torch.full((401, 1), -3.0), torch.linspace(-30, 30, 401).unsqueeze(1)], dim=1).double()
    kl = StandardNormal(1).kl_dim(head(h))
    assert kl.min() == pytest.approx(delta, abs=1e-6)
    assert (kl - delta).abs().max() < 1e-6  # where the mean's share is 0, whatever the variance
    more = StandardNormal(1).kl_dim(head(torch.tensor([[2.0, 0.3]]).double()))
    assert more.item() == pytest.approx(delta + 1.0, abs=1e-6)


def test_the_bounds_of_the_variance_are_the_published_ones():
    for delta, low, high in ((0.05, 0.6168, 1.5162), (0.1, 0.4932, 1.7722), (0.15, 0.4111, 1.9862)):
        head = BoundedHead(through, delta)
        assert (head.low**2, head.high**2) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 0.6, 0.7])
def test_the_mean_kl_of_a_normalised_head_is_bounded_from_below(gamma):
    dim = 32
    head = NormalisedHead(through, dim, BatchNormVAE.Config(gamma=gamma)).double()
    h = torch.randn(50, 2 * dim, generator=generator(), dtype=torch.float64)
    bound = dim * gamma**2 / 2
    assert StandardNormal(dim).kl(head(h)).mean() >= bound * (1 - 1e-4)
    unit = torch.cat([h[:, :dim], torch.zeros(50, dim, dtype=torch.float64)], dim=1)  # σ = 1: the bound is met
    assert StandardNormal(dim).kl(head(unit)).mean() == pytest.approx(bound, rel=1e-4)


def test_version_two_keeps_the_second_moment_of_the_aggregate():
    head = NormalisedHead(through, 4, BatchNormVAE.Config(version=2)).double()
    with torch.no_grad():
        head.shift.copy_(torch.randn(4, generator=generator()))
    q = head(torch.randn(200, 8, generator=generator(1), dtype=torch.float64))
    moment = (q.mean.square() + q.logvar.exp()).mean(0)
    assert torch.allclose(moment, torch.ones(4, dtype=torch.float64), atol=1e-3)


def test_diverse_means_have_the_spread_that_was_asked_for():
    head = DiverseHead(through, 6, gamma=0.5).double()
    with torch.no_grad():
        head.scale.copy_(torch.rand(6, generator=generator()) + 0.1)
    q = head(torch.randn(300, 12, generator=generator(1), dtype=torch.float64))
    assert q.mean.var(0, correction=0).mean().sqrt().item() == pytest.approx(0.5, rel=1e-3)


def test_the_variance_of_du_vae_has_its_floor_and_its_dropout():
    method = DiverseUncertainVAE(DiverseUncertainVAE.Config(dropout=0.5, alpha=1.0))
    q = Gaussian(torch.zeros(4000, 2), torch.zeros(4000, 2))
    ctx = context(generator=lambda purpose: generator(3))
    ctx.model.encode, ctx.model.latent_dim, x = lambda x: q, 2, torch.zeros(4000, 1)
    floor = 1 / (2 * math.pi * math.e)
    dropped = method.posterior(ctx, x, train=True).logvar.exp() - floor
    assert sorted({round(v, 4) for v in dropped.flatten().tolist()}) == [0.0, 2.0]
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.allclose(method.posterior(ctx, x, train=False).logvar.exp(), torch.tensor(1 + floor))
    entropy = 0.5 * math.log(2 * math.pi * math.e * floor)
    assert entropy == pytest.approx(0.0)  # ½ log α
    ctx.beta = 0.5
    assert method.posterior(ctx, x, train=True) is q


@pytest.mark.parametrize("size", [0.1, 1e-4])
def test_the_decoder_of_scale_vae_sees_means_of_the_asked_spread_and_the_kl_those_before(size):
    head = ScaledHead(through, 3, spread=1.0)
    q = head(size * torch.randn(200, 6, generator=generator()))
    assert torch.allclose(q.mean.std(0, correction=0), torch.ones(3), atol=1e-3)
    assert q.unscaled.mean.std() < 2 * size


# -- objectives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
@torch.enable_grad()
def test_free_bits_by_a_mask_and_by_a_maximum_have_one_gradient(placement):
    kl_dim = torch.rand(20, 4, generator=generator(), dtype=torch.float64).requires_grad_()
    target = 2.0 if placement != "total_batch" else 1.5
    FreeBits(target, placement).of(kl_dim.sum(-1), kl_dim).backward()
    other = kl_dim.detach().clone().requires_grad_()
    over, mean = placement.split("_")
    held = other if over == "dim" else other.sum(-1, keepdim=True)
    held = held.mean(0, keepdim=True) if mean == "batch" else held
    floor = target / 4 if over == "dim" else target
    mask = (held > floor).detach()
    (mask * held).sum(-1).mean().backward()
    assert torch.allclose(kl_dim.grad, other.grad) and kl_dim.grad.count_nonzero() > 0


def test_free_bits_without_kl_per_dimension_say_what_to_take():
    with pytest.raises(Exception, match="placement=total_example"):
        FreeBits(4.0).of(torch.ones(3), None)


def test_the_density_gap_of_a_batch_is_its_kl_by_quadrature():
    q = gaussians(batch=4, dim=2)
    method = DensityGapVAE()
    terms = terms_of(q)
    terms.extra["aggregate"] = q.rsample(20_000, generator(1))
    grid = np.linspace(-12, 12, 20_001)
    expected = 0.0
    for d in range(2):
        each = stats.norm.pdf(grid[:, None], q.mean[:, d].numpy(), q.logvar[:, d].div(2).exp().numpy())
        density = each.mean(1)
        expected += integrate.trapezoid(density * (np.log(density + 1e-300) - stats.norm.logpdf(grid)), grid)
    # in parts, for all pairs are in memory at once
    parts = []
    for part in terms.extra["aggregate"].split(500, dim=1):
        terms.extra["aggregate"] = part
        parts.append(method.kl_loss(terms).item())
    assert np.mean(parts) == pytest.approx(expected, abs=4 * np.std(parts) / math.sqrt(len(parts)))


def test_the_density_gap_of_identical_posteriors_is_the_kl():
    q = Gaussian(torch.full((5, 2), 0.7, dtype=torch.float64), torch.full((5, 2), -1.0, dtype=torch.float64))
    terms = terms_of(q)
    terms.extra["aggregate"] = q.rsample(4000, generator())
    assert DensityGapVAE().kl_loss(terms).item() == pytest.approx(terms.kl.mean().item(), abs=0.05)


# -- objectives -------------------------------------------------------------------------------------


def test_mmd_is_unbiased():
    values = []
    for seed in range(1000):
        a, b = torch.randn(2, 12, 3, generator=generator(seed), dtype=torch.float64)
        values.append(mmd(a, b).item())
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(1000)
    assert np.min(values) < 0 < np.max(values)
    shifted = mmd(torch.randn(200, 3, generator=generator()), torch.randn(200, 3, generator=generator(1)) + 2)
    assert shifted > 10 * np.std(values)
    assert mmd(torch.ones(1, 3), torch.zeros(1, 3)) == 0


def test_pairwise_divergences_are_those_of_torch():
    q = gaussians()
    normal = torch.distributions.Normal(q.mean, q.logvar.div(2).exp())
    i, j = 1, 4
    one, other = (torch.distributions.Normal(normal.mean[k], normal.stddev[k]) for k in (i, j))
    assert torch.allclose(pairwise_kl(q.mean, q.logvar)[i, j], torch.distributions.kl_divergence(one, other))


def test_mae_wants_posteriors_apart_and_evenly():
    method = MutualPosteriorDivergence(MutualPosteriorDivergence.Config(eta=1.0, gamma=1.0))
    near, apart = (
        terms_of(Gaussian(scale * torch.eye(3).double(), torch.zeros(3, 3).double())) for scale in (0.1, 2.0)
    )
    extra = [method.loss(context(), t) - t.kl.mean() for t in (near, apart)]
    assert extra[1] < extra[0]  # all pairs are alike here, so that the spread adds nothing
    uneven = terms_of(Gaussian(torch.tensor([[0.0], [0.0], [3.0]]).double(), torch.zeros(3, 1).double()))
    k = pairwise_kl(uneven.q.mean, uneven.q.logvar)[~torch.eye(3, dtype=torch.bool)]
    assert method.loss(context(), uneven) - uneven.kl.mean() == pytest.approx(
        -math.log(1 / (1 + math.exp(-k.mean().item()))) + k.sum(-1).std().item()
    )


def test_the_self_critic_bounds_mutual_information():
    """log B minus its loss: near log B where posteriors are apart, 0 where they are one."""
    method = SelfCritic()
    for scale, expected in ((30.0, math.log(6)), (0.0, 0.0)):
        q = Gaussian(scale * torch.arange(6.0).unsqueeze(1).expand(-1, 3), torch.zeros(6, 3))
        terms = terms_of(Gaussian(q.mean.double(), q.logvar.double()), q.rsample(1, generator()).double())
        bound = math.log(6) - (method.loss(context(), terms) - terms.kl.mean()).item()
        assert bound == pytest.approx(expected, abs=1e-6)


def test_mu_forcing_asks_for_spread_until_its_margin_is_met():
    method = MuForcing(MuForcing.Config(margin=0.5))
    for spread, expected in ((0.0, 3 * 0.5), (1.0, 0.0)):
        mean = spread * torch.tensor([[-1.0] * 3, [1.0] * 3]).double()
        terms = terms_of(Gaussian(mean, torch.zeros(2, 3).double()))
        assert (method.loss(context(), terms) - terms.kl.mean()).item() == pytest.approx(expected)


def test_the_importance_weighted_bound_rises_with_its_samples_to_the_evidence():
    """p(x|z) = N(x; z, 1) in three dimensions, q too wide: log p(x) = log N(x; 0, 2)."""
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


# -- control -------------------------------------------------------------------------------------


def plant(weight: float) -> float:
    """The KL at which a toy with distortion 20 e^(-KL / 5) has its least loss under this weight on the KL."""
    return 5 * math.log(4 / max(weight, 1e-9)) if weight < 4 else 0.0


def test_the_rate_of_mdr_comes_to_its_target():
    method = MinimumDesiredRate(MinimumDesiredRate.Config(target=9.0, start=0.5, lr=1e-3))
    kl = 0.0
    for _ in range(4000):
        kl += 0.2 * (plant(1 - method.multiplier.item()) - kl)
        method.control(torch.tensor(kl))
    assert kl == pytest.approx(9.0, rel=0.05)
    assert 0 < method.multiplier < 1


def test_mdr_leaves_a_rate_above_its_target_alone():
    method = MinimumDesiredRate(MinimumDesiredRate.Config(target=5.0))
    for _ in range(2000):
        method.control(torch.tensor(7.0))
    assert method.multiplier == 0
    terms = SimpleNamespace(kl=torch.tensor([7.0]))
    assert method.kl_loss(terms) == 7.0


@pytest.mark.parametrize("stuck, bound", [(0.0, 0), (400.0, 1)])
def test_the_controller_reaches_its_set_point_and_recovers_from_saturation(stuck, bound):
    method = ControlVAE(ControlVAE.Config(target=9.0, ki=-1e-3))
    for _ in range(5000):  # far from the set-point, whatever it does: the weight can only be at its bound
        method.control(torch.tensor(stuck))
    assert method.weight == pytest.approx(bound, abs=1e-5)
    kl = 40.0
    for step in range(4000):
        kl += 0.2 * (plant(method.weight.item()) - kl)
        method.control(torch.tensor(kl))
        if step == 200:
            assert 0 < method.weight < 1, "it has not recovered"
    assert kl == pytest.approx(9.0, rel=0.05)


def test_geco_finds_the_multiplier_that_meets_its_constraint():
    method = GECO(GECO.Config(kappa=3.0, memory=0.9))
    ctx = context(note=print)
    kl = 0.0
    for _ in range(4000):
        kl += 0.2 * (plant(1 / method.multiplier.item()) - kl)  # its weight on the KL, relative to the reconstruction
        method.seen = torch.tensor(20 * math.exp(-kl / 5))
        method.on_step_end(ctx)
    assert 20 * math.exp(-kl / 5) == pytest.approx(3.0, rel=0.05)


def test_geco_s_constraint_is_what_the_last_epoch_of_its_autoencoder_reaches():
    """Not what its first steps do, which are far above."""
    method, notes = GECO(), []
    pretraining, main = (context(phase=phase, note=notes.append) for phase in method.phases())
    for seen in (500.0, 40.0, 42.0):
        for _ in range(30):
            method.seen = torch.tensor(seen)
            method.on_step_end(pretraining)
        method.on_epoch_end(pretraining)
    method.on_phase_start(main)
    assert method.kappa.item() == pytest.approx(42 + method.config.margin) and "43.00" in notes[0]


# -- maps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse_lipschitz", [0.0, 0.5])
@torch.enable_grad()
def test_the_jacobian_of_a_brenier_map_is_symmetric_and_positive_definite(inverse_lipschitz):
    torch.manual_seed(0)
    map_ = Brenier(4, inverse_lipschitz).double()
    for z in 3 * torch.randn(20, 4, generator=generator(1), dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(map_, z)
        assert torch.allclose(jacobian, jacobian.T)
        assert torch.linalg.eigvalsh(jacobian).min() > max(inverse_lipschitz, 1e-4) * (1 - 1e-9)
    a, b = 3 * torch.randn(2, 200, 4, generator=generator(2), dtype=torch.float64)
    growth = (map_(a) - map_(b)).norm(dim=1) / (a - b).norm(dim=1)
    assert growth.min() >= inverse_lipschitz


def test_a_brenier_map_is_the_gradient_of_a_convex_function():
    torch.manual_seed(0)
    map_ = Brenier(3).double()
    z, w = torch.randn(2, 500, 3, generator=generator(1), dtype=torch.float64)
    assert ((map_(z) - map_(w)) * (z - w)).sum(1).min() > 0  # monotone
    # the work along a closed way is nothing
    corners = torch.randn(3, 3, generator=generator(2), dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(2000)
    share = torch.from_numpy((nodes + 1) / 2).unsqueeze(1)
    work = sum(
        float(torch.from_numpy(weights / 2) @ map_(a + share * (b - a)) @ (b - a))
        for a, b in zip(corners, corners.roll(-1, 0), strict=True)
    )
    assert work == pytest.approx(0.0, abs=1e-3)  # the map has corners


@torch.enable_grad()
def test_an_autoregressive_flow_has_the_determinant_and_the_inverse_it_says():
    torch.manual_seed(0)
    flow = AutoregressiveFlow(4, 10).double()
    torch.nn.init.normal_(flow.second.weight)
    z, context = torch.randn(5, 4).double(), torch.randn(5, 10).double()
    there, log_determinant = flow.transformed(z, context)
    back, again = flow.inverted(there, context)
    assert torch.allclose(back, z) and torch.allclose(again, log_determinant)
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda u: flow.transformed(u, context[i])[0], z[i])
        assert torch.allclose(jacobian, jacobian.tril())
        assert torch.allclose(jacobian.diagonal().log().sum(), log_determinant[i])


def test_the_density_of_a_flowed_posterior_integrates_to_one_and_is_that_of_its_samples():
    torch.manual_seed(0)
    flows = [AutoregressiveFlow(2, 8).double() for _ in range(2)]
    for flow in flows:
        torch.nn.init.normal_(flow.second.weight)
    contexts = [torch.randn(3, 8).double() for _ in flows]
    q = Flowed(gaussians(3, 2), flows, contexts)
    z, log_q = q.sampled(4, generator())
    assert torch.allclose(q.log_prob(z), log_q)
    assert torch.allclose(q.pairwise_log_prob(z[:, 0]).diagonal(), log_q[:, 0])
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).expand(3, -1, -1)
    assert torch.allclose(q.log_prob(grid).exp().sum(1) * (axis[1] - axis[0]) ** 2, torch.ones(3).double(), atol=1e-3)


def test_a_mixture_prior_is_that_of_torch():
    class Fixed(MixturePrior):
        def components(self):
            return gaussians(5, 3)

    parts = gaussians(5, 3)
    each = torch.distributions.Independent(torch.distributions.Normal(parts.mean, parts.logvar.div(2).exp()), 1)
    torchs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(5)), each)
    z = torch.randn(4, 2, 3, generator=generator(1), dtype=torch.float64)
    assert torch.allclose(Fixed(3).log_prob(z), torchs.log_prob(z))
    drawn = Fixed(3).sample(40_000, generator(2))
    assert torch.allclose(drawn.mean(0), torchs.mean, atol=0.05)
    assert torch.allclose(drawn.var(0), torchs.variance, rtol=0.05)
