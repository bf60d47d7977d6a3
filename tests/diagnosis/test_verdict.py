"""Verdicts on models whose state is known: planted faults of every kind, and healthy models."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

import bench
from tests.evaluation.toy_models import LinearGaussian

N, D = 400, 4


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def channel(count=N, dim=D, information=1.0):
    """Gaussian channels whose aggregate is N(0, I): ``information`` nats per dimension."""
    variance = math.exp(-2 * information)
    mean = normal(count, dim) * math.sqrt(1 - variance)
    return mean, torch.full_like(mean, math.log(variance))


def constant(mean=0.0, variance=1.0, count=N, dim=D):
    return torch.full((count, dim), mean).double(), torch.full((count, dim), math.log(variance)).double()


def joined(*parts):
    return tuple(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))


class Linear:
    """Probabilistic PCA with its data and log p(x|z) as a user writes it."""

    def __init__(self, diagonal=True, scale=0.5):
        self.model = LinearGaussian(D, scale, diagonal=diagonal, pixels=8)
        self.x = self.model.data(N)
        self.information = -0.5 * torch.logdet(self.model.covariance).item()

    def log_prob(self, x, z):
        return self.model.log_prob(x, z.unsqueeze(1)).squeeze(1)

    def posterior(self):
        q = self.model.mean_field(self.x)
        return q.mean, q.logvar

    def full_posterior(self):
        return MultivariateNormal(self.model.mean(self.x), self.model.covariance)


def ignores_z(x, z):
    return Normal(0.0, 1.0).log_prob(x).sum(1) + 0 * z.sum(1)


def shortened(linear):
    return dict(data=linear.x, log_prob=linear.log_prob, likelihood_examples=24)


def lagging():
    return constant(), shortened(Linear())


def lagging_with_offset():
    return constant(0.7, 0.5), shortened(Linear())


def best_encoder(weight, **options):
    """The encoder of highest E[log p(x|z)] - weight KL, which has no lag, whatever the weight."""
    linear = Linear()
    precision = 1 + 1 / (weight * linear.model.scale**2)
    mean = linear.x @ linear.model.weight / (weight * linear.model.scale**2 * precision)
    return (mean, torch.full_like(mean, -math.log(precision))), shortened(linear) | options


def with_likelihood(change):
    linear = Linear()
    return linear.posterior(), shortened(linear) | {"log_prob": lambda x, z: change(linear.log_prob(x, z))}


def decoder_alone(posterior):
    return posterior, dict(data=Linear().x, log_prob=ignores_z, likelihood_examples=24)


RISING = np.linspace(0.02, 0.3, 40)
FALLING = {"kl": np.geomspace(6, 0.001, 40), "kl_weight": np.linspace(0.1, 1, 40)}
#: Name -> posteriors and further arguments, status, causes.
PLANTED = {
    "posterior equals prior": (lambda: (constant(), {}), "collapsed", ["unknown"]),
    "constant offset": (lambda: (constant(1.5), {}), "collapsed", ["moved_together"]),
    "constant narrow posterior": (lambda: (constant(0, 0.01), {}), "collapsed", ["moved_together"]),
    "dead half": (lambda: (joined(channel(), constant()), {}), "not collapsed", ["dead_dimensions"]),
    "offset half": (lambda: (joined(channel(), constant(2.0)), {}), "not collapsed", ["moved_together"]),
    "one dimension used": (
        lambda: (joined(channel(dim=1), constant(dim=7)), {}),
        "not collapsed",
        ["dead_dimensions"],
    ),
    "lagging encoder": (lagging, "collapsed", ["encoder_lag"]),
    "lagging encoder with offset": (lagging_with_offset, "collapsed", ["encoder_lag", "moved_together"]),
    "warm-up longer than training": (
        lambda: (channel(), dict(history={"kl": 10 - RISING, "kl_weight": RISING})),
        "not collapsed",
        ["warm_up"],
    ),
    "prior wins during warm-up": (lambda: (constant(), dict(history=FALLING)), "collapsed", ["prior_wins"]),
    "prior wins by its weight": (lambda: (constant(), dict(kl_weight=4.0)), "collapsed", ["prior_wins"]),
    "decoder ignores informative z": (lambda: decoder_alone(channel()), "unused", ["decoder_ignores_z"]),
    "decoder ignores collapsed z": (lambda: decoder_alone(constant()), "collapsed", ["decoder_ignores_z"]),
    "a large KL weight": (lambda: best_encoder(30.0, kl_weight=30.0), "collapsed", ["prior_wins"]),
    "a wrong sign": (lambda: with_likelihood(lambda log_px: -log_px), "undecided", []),
    "a mean over pixels": (lambda: with_likelihood(lambda log_px: log_px / 500), "unused", ["decoder_ignores_z"]),
    "prior wins by the last weight": (
        lambda: (constant(), dict(history={"kl": [0.02, 0.01, 0], "kl_weight": [1, 4, 4]})),
        "collapsed",
        ["prior_wins"],
    ),
    "MI at its ceiling": (lambda: (channel(information=3.0), {}), "not collapsed", ["estimator_ceiling"]),
    "too few examples": (lambda: (channel(20), {}), "undecided", []),
    "collapsed, too few examples": (lambda: (constant(count=20), {}), "undecided", []),
    "MI at the threshold": (lambda: (channel(dim=1, information=0.1), {}), "undecided", []),
    "full covariance without x": (
        lambda: (MultivariateNormal(torch.zeros(N, D), torch.eye(D) * 0.5 + 0.5), {}),
        "collapsed",
        ["moved_together"],
    ),
}


def in_variances():
    """Means that do not vary; the width of the posterior says which half an example is in."""
    mean, logvar = constant()
    logvar[::2] = -6
    return mean, logvar


def correlated():
    mean, logvar = channel()
    return mean @ torch.tensor([[1.0, 0.9, 0, 0], [0, 0.4, 0, 0], [0, 0, 1, 0.9], [0, 0, 0, 0.4]]).double(), logvar


def shifted():
    mean, logvar = channel()
    return 5 + 2 * mean, logvar + 2 * math.log(2)


def mixture():
    centres = torch.tensor([[-3.0] * D, [3.0] * D])
    parts = Independent(Normal(centres, torch.ones(2, D)), 1)
    mean, logvar = channel()
    side = (3 * torch.sign(normal(N, 1, seed=1))).double()
    return (mean + side, logvar), dict(prior=MixtureSameFamily(Categorical(torch.ones(2)), parts))


HEALTHY = {
    "exact posterior": lambda: (Linear().posterior(), shortened(Linear())),
    "exact full-covariance posterior": lambda: (Linear(diagonal=False).full_posterior(), {}),
    "mean field, correlated": lambda: (Linear(False, 1.0).posterior(), shortened(Linear(False, 1.0))),
    "Gaussian channels": lambda: (channel(), {}),
    "the best encoder of a β-VAE": lambda: best_encoder(4.0, kl_weight=4.0),
    "correlated dimensions": lambda: (correlated(), {}),
    "another Gaussian prior": lambda: (shifted(), dict(prior=Normal(torch.full((D,), 5.0), 2.0))),
    "a mixture as prior": mixture,
    "information in variances only": lambda: (in_variances(), {}),
    "warm-up that ended": lambda: (
        channel(),
        dict(history={"kl": [3, 4, 4, 4], "kl_weight": [0.1, 1, 1, 1]}, kl_weight=1),
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_planted_fault_is_named(case):
    arguments, status, causes = PLANTED[case]
    posterior, options = arguments()
    diagnosis = bench.diagnose(posterior, **options)
    assert diagnosis.status == status, str(diagnosis)
    assert [*diagnosis.causes] == causes, str(diagnosis)


@pytest.mark.parametrize("case", HEALTHY)
def test_healthy_model_is_not_collapsed(case):
    posterior, options = HEALTHY[case]()
    diagnosis = bench.diagnose(posterior, **options)
    assert diagnosis.status == "not collapsed", str(diagnosis)
    assert not {*diagnosis.causes} - {"estimator_ceiling"}, str(diagnosis)


def test_no_verdict_while_use_by_decoder_is_unclear():
    """A decoder that uses z for few examples only: the error of the gap covers the threshold."""
    linear = Linear()
    x = linear.x.clone()
    x[:, 0] = (torch.arange(N) == 0).double()

    def log_prob(x, z):
        return x[:, 0] * (z - linear.posterior()[0][0]).square().sum(1) * -3

    diagnosis = bench.diagnose(linear.posterior(), x, log_prob=log_prob, likelihood_examples=24)
    assert diagnosis.status == "undecided" and "likelihood_examples" in str(diagnosis)


def test_numbers_of_exact_posteriors():
    """MI and KL of probabilistic PCA in closed form; the encoder loses nothing, and the NLL is exact."""
    linear = Linear()
    m = bench.diagnose(linear.posterior(), linear.x, log_prob=linear.log_prob, likelihood_examples=40).measures
    assert m["mi"] - 3 * m["mi_se"] < linear.information < m["mi_high"] + 3 * m["mi_loo_se"]
    assert m["kl"] == pytest.approx(linear.information, abs=4 * m["kl_se"])
    rows = np.unique(np.linspace(0, N - 1, 40).round().astype(int))
    assert m["iw_nll"] == pytest.approx(-linear.model.log_px(linear.x[rows]).mean().item(), abs=1e-6)
    assert abs(m["gap_amortisation"]) < 0.01 and m["mi_refined"] == pytest.approx(m["mi_encoder"], abs=0.1)
    assert (m["effect_dim"] > 1).all()
    per_dimension = -0.5 * linear.model.covariance.diagonal().log()
    assert torch.allclose(m["mi_dim"], per_dimension, atol=0.15)


def test_mi_is_bracketed_in_a_full_covariance():
    linear = Linear(diagonal=False, scale=1.0)
    m = bench.diagnose(linear.full_posterior()).measures
    assert m["mi"] - 3 * m["mi_se"] < linear.information < m["mi_high"] + 3 * m["mi_loo_se"]
    assert m["kl"] == pytest.approx(linear.information, abs=4 * m["kl_se"])
    assert m["kl_dim"].sum() < m["kl"]


def test_units_of_the_prior_do_not_matter():
    plain, other = (bench.diagnose(*arguments) for arguments in [(channel(),)] * 2)
    scaled = bench.diagnose(shifted(), prior=Normal(torch.full((D,), 5.0), 2.0))
    for name in ("mi", "kl", "au", "kl_aggregate"):
        assert plain.measures[name] == other.measures[name] == pytest.approx(scaled.measures[name], abs=1e-6)


def test_dimensions_that_look_unused():
    """Means with a variance below 0.01 and narrower posteriors: inactive by Burda's rule, yet informative."""
    mean, logvar = channel(information=2.0)
    diagnosis = bench.diagnose(joined((0.05 * mean, logvar + 2 * math.log(0.05)), channel()))
    assert diagnosis.to_dict()["measures"]["looks_unused"] == [0, 1, 2, 3]
    assert diagnosis.measures["au"] == 4 and diagnosis.measures["au_ratio"] == 8


def test_signal_fraction_is_that_of_the_linear_model():
    """Of exact posteriors with variance S the means have variance 1 - S; an offset counts as signal, too."""
    linear = Linear()
    fraction = bench.diagnose(linear.posterior()).measures["signal_fraction"]
    assert torch.allclose(fraction, 1 - linear.model.covariance.diagonal().to(fraction), atol=0.05)
    assert bench.diagnose(constant(1.0)).measures["signal_fraction"].tolist() == pytest.approx([0.5] * D)


def test_dead_dimensions_are_those_of_the_collapse_curve():
    diagnosis = bench.diagnose(joined(channel(dim=3), constant(dim=2)))
    assert diagnosis.measures["dead"].tolist() == [False, False, False, True, True]
    curve = diagnosis.measures["collapse_curve"]
    assert curve[0] == pytest.approx(0.4) and curve[-1] == 1


def test_probe_reads_labels():
    mean, logvar = channel()
    m = bench.diagnose((mean, logvar), labels=(mean[:, 0] > 0).long()).measures
    assert m["probe"] > 0.9 and m["probe_chance"] < 0.6
