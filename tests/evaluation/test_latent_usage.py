"""Use of the latent, by the encoder and by the decoder, against closed forms and cases made by hand."""

import math

import pytest
import torch
from torch import Tensor

from bench.evaluation.estimators.latent_usage import (
    active_units,
    collapse_curve,
    coupled_samples,
    derangement,
    distortion_gaps,
    informative_units,
    variance_ratio_units,
)
from bench.models.distributions import Gaussian, StandardNormal
from tests.evaluation.linear_gaussian import LinearGaussian, generator


class Deaf(LinearGaussian):
    """A decoder that does not hear z."""

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        return super().log_prob(x, torch.zeros_like(z))


class Foreign:
    """A posterior that is no Gaussian: uniform around its means, with little to ask it."""

    has_density = has_pairwise = False

    def __init__(self, mean: Tensor):
        self.mean = mean

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        batch, dim = self.mean.shape
        return self.mean.unsqueeze(1) + 0.1 * torch.rand(batch, samples, dim, generator=generator, dtype=torch.float64)


def test_active_units_counts_variance_of_means():
    means = torch.randn(2000, 3, generator=generator()) * torch.tensor([1.0, 0.05, 0.2])
    assert active_units(means) == 2
    assert active_units(means, threshold=1e-4) == 3


def test_the_other_counts_do_not_change_with_the_scale_of_the_means():
    """Normalised means in units of 0.01: the same code and decoder, other units of z, and a prior in those units."""
    random = torch.randn(2000, 3, generator=generator(), dtype=torch.float64)
    means = random * torch.tensor([1.0, 0.5, 0.0])
    variances = torch.tensor([0.1, 0.75, 1.0], dtype=torch.float64).expand(2000, 3)
    prior = StandardNormal(3)
    kl = prior.kl_dim(Gaussian(means, variances.log()))
    assert (active_units(means), informative_units(kl), variance_ratio_units(means, variances)) == (2, 2, 2)
    assert active_units(0.01 * means) == 0 and variance_ratio_units(0.01 * means, 1e-4 * variances) == 2


def test_normalised_means_of_a_collapsed_posterior_are_active_but_neither_informative_nor_variable():
    """As BatchNorm makes them: means of a small fixed variance, within a posterior that is all but the prior."""
    means = 0.12 * torch.randn(2000, 4, generator=generator(), dtype=torch.float64)
    variances = torch.full_like(means, 1 - 0.12**2)
    kl = StandardNormal(4).kl_dim(Gaussian(means, variances.log()))
    assert (active_units(means), informative_units(kl), variance_ratio_units(means, variances)) == (4, 0, 0)


def test_a_unit_with_neither_mean_nor_variance_is_not_in_use():
    assert variance_ratio_units(torch.zeros(10, 2), torch.zeros(10, 2)) == 0


def test_the_collapse_curve_counts_the_dimensions_that_are_nearly_always_below_epsilon():
    kl = torch.zeros(100, 4)
    kl[:, 0] = 0.005
    kl[:1, 1] = 5.0  # one example in a hundred may be above
    kl[:2, 2] = 5.0  # two may not
    kl[:, 3] = 1.0
    epsilons = torch.tensor([0.0, 0.004, 0.005, 0.01, 1.0, 1.5, 6.0])
    assert collapse_curve(kl, epsilons).tolist() == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 1]
    assert collapse_curve(kl, torch.tensor([0.01]), delta=0.0).tolist() == [0.25]
    assert collapse_curve(kl, torch.tensor([0.01]), delta=0.29).tolist() == [0.75]


@pytest.mark.parametrize("count", [100, 1000, 1234])
@pytest.mark.parametrize("delta", [0.0, 0.01, 0.07, 0.29])
def test_the_collapse_curve_is_its_definition(count, delta):
    kl = torch.rand(count, 7, generator=generator()) * torch.logspace(-4, 1, 7)
    epsilons = torch.logspace(-4, 1, 50)
    share = (kl.unsqueeze(0) < epsilons.view(-1, 1, 1)).double().mean(1)
    expected = (share >= 1 - delta - 1e-12).double().mean(1)
    torch.testing.assert_close(collapse_curve(kl, epsilons, delta), expected)


def test_no_example_is_its_own_partner_and_all_such_pairings_are_as_likely():
    for count in (2, 3, 4, 50):
        assert not (derangement(count, generator()) == torch.arange(count)).any()
    random = generator()
    drawn = [tuple(derangement(4, random).tolist()) for _ in range(1800)]
    seen = {order: drawn.count(order) for order in drawn}
    assert len(seen) == 9 and all(150 < times < 250 for times in seen.values())
    assert torch.equal(derangement(50, generator(3)), derangement(50, generator(3)))
    with pytest.raises(ValueError, match="no other"):
        derangement(1, generator())


def gaps(model: LinearGaussian, x: Tensor, q: Gaussian, chunk: int = 10_000, samples: int = 4):
    z = coupled_samples([q], model.prior, samples, generator(1))
    return distortion_gaps(model, x, *z, chunk)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_gaps_of_probabilistic_pca(scale):
    """z = z' - z'' of two independent codes: the squared error rises by tr WᵀW / s², for shuffled z and for prior z."""
    model = LinearGaussian(2, scale, diagonal=True)
    x = model.data(4000)
    for gap in gaps(model, x, model.posterior(x)):
        assert gap.dtype == torch.float64 and gap.shape == (4000,)
        assert gap.mean().item() == pytest.approx(2 / scale**2, abs=3.5 * gap.std().item() / math.sqrt(4000))
        assert gap.mean().item() >= math.log(1 + 1 / scale**2), "at least the information"


def test_a_model_that_ignores_z_has_no_gap():
    model = Deaf(2, 0.5, diagonal=True)
    x = model.data(100)
    for gap in gaps(model, x, model.posterior(x)):
        assert (gap == 0).all()


def test_a_collapsed_posterior_has_no_gap_though_the_decoder_hears_z():
    """Common noise: each z of another and of the prior is the own one. With other noise the gaps would scatter."""
    model = LinearGaussian(2, 0.5)
    x = model.data(100)
    q = Gaussian(torch.zeros(100, 2, dtype=torch.float64), torch.zeros(100, 2, dtype=torch.float64))
    for gap in gaps(model, x, q):
        assert (gap == 0).all()
    nearly = Gaussian(q.mean + 1e-3 * torch.randn(100, 2, generator=generator()), q.logvar)
    for gap in gaps(model, x, nearly):
        assert gap.abs().max() < 0.5 and abs(gap.mean().item()) < 0.01


def test_the_gaps_do_not_depend_on_chunks_and_blocks():
    model = LinearGaussian(2, 0.5)
    x = model.data(30)
    q = model.mean_field(x)
    whole = gaps(model, x, q, samples=5)
    for chunk in (1, 60, 100):
        torch.testing.assert_close(gaps(model, x, q, chunk, samples=5), whole)
    halves = [Gaussian(m, v) for m, v in zip(q.mean.split(17), q.logvar.split(17), strict=True)]
    z = coupled_samples(halves, model.prior, 5, generator(1))
    parts = zip(x.split(17), *(some.split(17) for some in z), strict=True)
    blocks = [distortion_gaps(model, *part, chunk=100) for part in parts]
    torch.testing.assert_close(torch.cat([block.shuffle for block in blocks]), whole.shuffle)


def test_coupled_samples_are_of_the_posteriors_and_of_the_prior():
    random = torch.randn(2, 20_000, 2, generator=generator(), dtype=torch.float64)
    q = Gaussian(2 * random[0], random[1])
    own, other, prior = coupled_samples([q], StandardNormal(2), 1, generator(1))
    assert own.dtype == other.dtype == prior.dtype == torch.float64
    standard = (own[:, 0] - q.mean) / (0.5 * q.logvar).exp()
    assert standard.mean().abs() < 0.02 and abs(standard.var() - 1) < 0.03
    assert prior.mean().abs() < 0.02 and abs(prior.var() - 1) < 0.03
    assert own.var() == pytest.approx(other.var().item(), rel=0.05)
    assert abs(torch.corrcoef(torch.stack([q.mean[:, 0], other[:, 0, 0]]))[0, 1]) < 0.03, "not one's own"


def test_any_posterior_and_prior_will_do():
    """Then without common noise: z of another example is one of its own samples."""
    mean = torch.arange(20, dtype=torch.float64).view(10, 2)
    own, other, prior = coupled_samples([Foreign(mean[:4]), Foreign(mean[4:])], StandardNormal(2), 3, generator())
    assert own.shape == other.shape == prior.shape == (10, 3, 2)
    assert ((own - mean.unsqueeze(1)).abs() <= 0.1).all()
    assert ((other - mean.unsqueeze(1)).abs() > 1).all(), "never the own posterior"
    for sample in range(3):
        assert sorted(other[:, sample, 0].tolist()) == sorted(own[:, sample, 0].tolist())
