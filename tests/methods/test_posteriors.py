"""Posterior families and priors against closed forms, quadrature, scipy and torch."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bench.methods.bn_vae import BatchNormHead, BatchNormVAE
from bench.methods.delta_vae import BoundedHead
from bench.methods.du_vae import DiverseHead, DiverseUncertainVAE
from bench.methods.fixed_variance import FixedVarianceHead
from bench.methods.parts.brenier import Brenier
from bench.methods.parts.flows import AutoregressiveFlow, FlowPosterior
from bench.methods.parts.implicit import ImplicitHead
from bench.methods.parts.mixture import MixturePrior
from bench.methods.parts.vmf import UniformSphere, VonMisesFisher, angle_cdf, kl_to_uniform, mean_length
from bench.methods.scale_vae import ScaledHead
from bench.models.distributions import Gaussian, StandardNormal
from bench.models.vae import reparametrize_prior
from tests.methods.gaussians import context, gaussians, generator, split

# -- von Mises–Fisher ----------------------------------------------------------------------------------------


def test_vmf_kl_matches_quadrature(subtests):
    """Integrals over the angle θ to μ: density ∝ exp(κ cos θ), area of the shell ∝ sin^(D-2) θ."""
    for dim, kappa in itertools.product([2, 32], [1.0, 13.0, 100.0]):
        with subtests.test(dim=dim, kappa=kappa):

            def over_angles(f):
                return integrate.quad(f, 0, math.pi, epsabs=0, epsrel=1e-11, limit=500)[0]

            def weight(theta):
                return math.exp(kappa * (math.cos(theta) - 1)) * math.sin(theta) ** (dim - 2)

            mass, area = over_angles(weight), over_angles(lambda theta: math.sin(theta) ** (dim - 2))
            log_density = over_angles(lambda theta: weight(theta) * kappa * (math.cos(theta) - 1)) / mass
            assert kl_to_uniform(dim, kappa) == pytest.approx(log_density - math.log(mass) + math.log(area), abs=1e-4)


def test_vmf_in_many_dimensions_matches_its_series():
    """E cos θ = κ/D - κ³/(D²(D+2)) + …, whose integral over κ is κ²/(2D) - κ⁴/(4D²(D+2)); KL = κ E cos θ - that."""
    dim, kappa = 2000, 13.0
    mean = kappa / dim - kappa**3 / (dim**2 * (dim + 2))
    integral = kappa**2 / (2 * dim) - kappa**4 / (4 * dim**2 * (dim + 2))
    assert mean_length(dim, kappa) == pytest.approx(mean, rel=1e-6)
    assert kl_to_uniform(dim, kappa) == pytest.approx(kappa * mean - integral, rel=1e-6)


def test_vmf_samples_have_its_mean_and_angles(subtests):
    for dim, kappa in [(2, 1.0), (3, 13.0), (8, 100.0), (32, 13.0)]:
        with subtests.test(dim=dim, kappa=kappa):
            direction = torch.nn.functional.normalize(torch.randn(2, dim, generator=generator()), dim=-1)
            q = VonMisesFisher(direction, kappa, angle_cdf(dim, kappa))
            z = q.rsample(20_000, generator(1))
            assert torch.allclose(z.norm(dim=-1), torch.ones(2, 20_000), atol=1e-5)
            cosine = (z * direction.unsqueeze(1)).sum(-1)
            error = 4 * cosine.std(1) / math.sqrt(20_000)
            assert ((cosine.mean(1) - mean_length(dim, kappa)).abs() < error).all()
            assert torch.allclose(q.mean, mean_length(dim, kappa) * direction)
            tangent = z.mean(1) - cosine.mean(1, keepdim=True) * direction
            assert tangent.norm(dim=-1).max() < 5 / math.sqrt(20_000)
            if dim < 9:  # scipy is slow in high dimensions
                mu = direction[0].double().numpy()
                reference = stats.vonmises_fisher(mu / np.linalg.norm(mu), kappa).rvs(4_000, random_state=0) @ mu
                assert stats.ks_2samp(cosine[0, :4_000].numpy(), reference).pvalue > 1e-3


def test_vmf_density_matches_scipy():
    direction = torch.nn.functional.normalize(torch.randn(3, 5, generator=generator(), dtype=torch.float64), dim=-1)
    q = VonMisesFisher(direction, 13.0, angle_cdf(5, 13.0))
    z = UniformSphere(5).sample(4, generator(1)).double()
    log_pdf = [[stats.vonmises_fisher(mu.numpy(), 13.0).logpdf(point.numpy()) for mu in direction] for point in z]
    expected = torch.tensor(np.array(log_pdf))
    assert torch.allclose(q.pairwise_log_prob(z), expected, atol=1e-6)
    assert torch.allclose(q.log_prob(z.expand(3, -1, -1)), expected.T, atol=1e-6)


def test_sphere_and_its_normal_parametrisation_have_one_likelihood():
    def log_px(z):
        return -3 * (z - torch.tensor([0.6, 0.8])).square().sum(-1)

    model = SimpleNamespace(prior=UniformSphere(2), latent_dim=2, log_prob=lambda x, z: log_px(z))
    over_normal = reparametrize_prior(model)
    expected = log_px(model.prior.sample(200_000, generator())).logsumexp(0)
    result = over_normal.log_prob(None, over_normal.prior.sample(200_000, generator(1))).logsumexp(0)
    assert result.item() == pytest.approx(expected.item(), abs=0.02)


# -- heads ---------------------------------------------------------------------------------------------------


def test_delta_vae_bounds_the_kl(subtests):
    """The bounds of the variance are the published ones; without the mean's term the KL is δ for any variance."""
    for delta, low, high in [(0.05, 0.6168, 1.5162), (0.1, 0.4932, 1.7722)]:
        with subtests.test(delta=delta):
            head = BoundedHead(split, delta)
            assert (head.low**2, head.high**2) == pytest.approx((low, high), abs=1e-4)
            h = torch.cat([torch.full((401, 1), -3.0), torch.linspace(-30, 30, 401).unsqueeze(1)], dim=1).double()
            kl = StandardNormal(1).kl_dim(head(h))
            assert (kl - delta).abs().max() < 1e-6
            kl = StandardNormal(1).kl_dim(head(torch.tensor([[2.0, 0.3]]).double()))
            assert kl.item() == pytest.approx(delta + 1.0, abs=1e-6)


def test_fixed_variance_bounds_the_kl():
    head = FixedVarianceHead(split, variance=0.5)
    h = torch.randn(5, 6, generator=generator(), dtype=torch.float64)
    q = head(h)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(h[:, :3], math.sqrt(0.5)), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(StandardNormal(3).kl_dim(q), expected)
    assert StandardNormal(3).kl(head(torch.zeros(1, 6))).item() == pytest.approx(3 * 0.0966, abs=1e-3)


def test_bn_vae_bounds_the_mean_kl():
    dim, gamma = 32, 0.6
    head = BatchNormHead(split, dim, BatchNormVAE.Config(gamma=gamma)).double()
    h = torch.randn(50, 2 * dim, generator=generator(), dtype=torch.float64)
    bound = dim * gamma**2 / 2
    with torch.no_grad():
        assert StandardNormal(dim).kl(head(h)).mean() >= bound * (1 - 1e-4)
        h[:, dim:] = 0  # σ = 1 attains the bound
        assert StandardNormal(dim).kl(head(h)).mean().item() == pytest.approx(bound, rel=1e-4)


@torch.no_grad()
def test_bn_vae_version_2_keeps_the_aggregate_second_moment():
    head = BatchNormHead(split, 4, BatchNormVAE.Config(version=2)).double()
    head.shift.copy_(torch.randn(4, generator=generator()))
    q = head(torch.randn(200, 8, generator=generator(1), dtype=torch.float64))
    moment = (q.mean.square() + q.logvar.exp()).mean(0)
    assert torch.allclose(moment, torch.ones(4, dtype=torch.float64), atol=1e-3)


@torch.no_grad()
def test_du_vae_means_have_the_given_spread():
    head = DiverseHead(split, 6, gamma=0.5).double()
    head.scale.copy_(torch.rand(6, generator=generator()) + 0.1)
    q = head(torch.randn(300, 12, generator=generator(1), dtype=torch.float64))
    assert q.mean.var(0, correction=0).mean().sqrt().item() == pytest.approx(0.5, rel=1e-3)


def test_du_vae_variance_has_a_floor_and_dropout():
    method = DiverseUncertainVAE(DiverseUncertainVAE.Config(dropout=0.5, alpha=1.0))
    q = Gaussian(torch.zeros(4000, 2), torch.zeros(4000, 2))
    ctx = context(generator=lambda purpose: generator(3))
    ctx.model.encode = lambda x: q
    floor = 1 / (2 * math.pi * math.e)
    variance = method.posterior(ctx, None, train=True).logvar.exp() - floor
    assert sorted({round(v, 4) for v in variance.flatten().tolist()}) == [0.0, 2.0]
    assert variance.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.allclose(method.posterior(ctx, None, train=False).logvar.exp(), torch.tensor(1 + floor))
    ctx.beta = 0.5
    assert method.posterior(ctx, None, train=True) is q


def test_scale_vae_scales_the_decoder_posterior_only(subtests):
    for scale in [0.1, 1e-4]:
        with subtests.test(scale=scale):
            q = ScaledHead(split, 3, spread=1.0)(scale * torch.randn(200, 6, generator=generator()))
            assert torch.allclose(q.mean.std(0, correction=0), torch.ones(3), atol=1e-3)
            assert q.unscaled.mean.std() < 2 * scale


# -- maps, flows, mixtures -----------------------------------------------------------------------------------


def test_brenier_map_has_a_positive_definite_jacobian(subtests):
    """A symmetric one: the map is the gradient of a convex function."""
    for inverse_lipschitz in [0.0, 0.5]:
        with subtests.test(inverse_lipschitz=inverse_lipschitz):
            torch.manual_seed(0)
            brenier = Brenier(4, inverse_lipschitz).double()
            for z in 3 * torch.randn(20, 4, generator=generator(1), dtype=torch.float64):
                jacobian = torch.autograd.functional.jacobian(brenier, z)
                assert torch.allclose(jacobian, jacobian.T)
                assert torch.linalg.eigvalsh(jacobian).min() > max(inverse_lipschitz, 1e-4) * (1 - 1e-9)
            a, b = 3 * torch.randn(2, 200, 4, generator=generator(2), dtype=torch.float64)
            difference = brenier(a) - brenier(b)
            assert (difference.norm(dim=1) / (a - b).norm(dim=1)).min() >= inverse_lipschitz
            assert (difference * (a - b)).sum(1).min() > 0, "not monotone"


def test_flow_has_its_log_determinant_and_inverse(subtests):
    for dim in [1, 2, 5]:
        with subtests.test(dim=dim):
            torch.manual_seed(0)
            flow = AutoregressiveFlow(dim, 6, context=3).double()
            torch.nn.init.normal_(flow.output.weight)
            z, context = torch.randn(4, dim).double(), torch.randn(4, 3).double()
            transformed, log_determinant = flow.transform(z, context)
            inverse, inverse_log_determinant = flow.inverse(transformed, context)
            assert torch.allclose(inverse, z) and torch.allclose(inverse_log_determinant, log_determinant)
            for i in range(4):
                jacobian = torch.autograd.functional.jacobian(lambda u: flow.transform(u, context[i])[0], z[i])
                assert torch.equal(jacobian, jacobian.tril()), "not autoregressive"
                assert (jacobian.tril() != 0).sum() == dim * (dim + 1) / 2, "a dimension ignores an earlier one"
                assert torch.allclose(jacobian.diagonal().log().sum(), log_determinant[i])


@torch.no_grad()
def test_closed_gates_have_a_finite_log_determinant():
    flow = AutoregressiveFlow(2, 4, context=1)
    flow.output.bias[:2] = -200.0
    z, context = torch.randn(3, 2), torch.zeros(3, 1)
    assert torch.allclose(flow.transform(z, context)[1], torch.tensor(-400.0), atol=5)


@torch.no_grad()
def test_pairs_whose_inverse_flow_overflows_have_no_density():
    flows = [AutoregressiveFlow(2, 8, context=4).double() for _ in range(2)]
    for flow in flows:
        flow.output.bias[:2] = -400.0  # gates near 0
    q = FlowPosterior(gaussians(3, 2), flows, torch.randn(3, 4).double())
    assert not q.log_prob(torch.full((3, 1, 2), 5.0).double()).isfinite().all()
    pairs = q.pairwise_log_prob(torch.full((3, 2), 5.0).double())
    assert not pairs.isnan().any() and (pairs == -math.inf).any()


@torch.no_grad()
def test_flow_posterior_density_integrates_to_one():
    torch.manual_seed(0)
    flows = [AutoregressiveFlow(2, 8, context=4).double() for _ in range(2)]
    for flow in flows:
        torch.nn.init.normal_(flow.output.weight, std=0.5)
    q = FlowPosterior(gaussians(3, 2), flows, torch.randn(3, 4).double())
    z, log_q = q.sample_with_log_prob(4, generator())
    assert torch.allclose(q.log_prob(z), log_q)
    assert torch.allclose(q.pairwise_log_prob(z[:, 0]).diagonal(), log_q[:, 0])
    axis = torch.linspace(-12, 12, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).expand(3, -1, -1)
    assert torch.allclose(q.log_prob(grid).exp().sum(1) * (axis[1] - axis[0]) ** 2, torch.ones(3).double(), atol=1e-3)


@torch.no_grad()
def test_sampled_means_of_equal_posteriors_are_equal(subtests):
    """Active units are 0 when q is the same for every x: no example has noise of its own."""
    torch.manual_seed(0)
    flows = [AutoregressiveFlow(2, 8, context=4) for _ in range(2)]
    base = Gaussian(torch.zeros(50, 2), torch.zeros(50, 2))
    equal = {
        "flow": FlowPosterior(base, flows, torch.randn(1, 4).expand(50, -1)),
        "implicit": ImplicitHead(3, 2)(torch.ones(50, 3)),
    }
    for name, q in equal.items():
        with subtests.test(name):
            assert q.mean.var(0).max() < 1e-10
            assert torch.allclose(q.mean[0], q.rsample(2000, generator()).flatten(0, 1).mean(0), atol=0.15)


def test_mixture_prior_matches_torch():
    class Fixed(MixturePrior):
        def components(self):
            return gaussians(5, 3)

    parts = gaussians(5, 3)
    components = torch.distributions.Independent(torch.distributions.Normal(parts.mean, parts.logvar.div(2).exp()), 1)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(5)), components)
    z = torch.randn(4, 2, 3, generator=generator(1), dtype=torch.float64)
    assert torch.allclose(Fixed(3).log_prob(z), expected.log_prob(z))
    samples = Fixed(3).sample(40_000, generator(2))
    assert torch.allclose(samples.mean(0), expected.mean, atol=0.05)
    assert torch.allclose(samples.var(0), expected.variance, rtol=0.05)
