import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.evaluation.estimators.likelihood import (
    effective_sample_size,
    importance_weighted_nll,
    nested_nll,
    nll_standard_error,
    pareto_k,
)
from tests.conftest import steady
from tests.evaluation.toy_models import LinearGaussian, generator, log_weights, standard_error

SEEDS = st.integers(0, 2**32)
SCALES = st.sampled_from((0.0, 1e-6, 0.1, 1.0, 5.0, 50.0, 1e4))
STATISTICS = (importance_weighted_nll, effective_sample_size, nll_standard_error, pareto_k)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_nll_is_an_upper_bound_that_converges(offset):
    model = LinearGaussian(2, 0.7)
    x = model.data(400)
    excess = [
        importance_weighted_nll(log_weights(model, x, model.mean_field(x, offset), samples)) + model.log_px(x)
        for samples in (1, 50, 2000)
    ]
    assert all(values.mean() > -3 * standard_error(values) for values in excess)
    assert excess[2].mean() < 0.1
    assert excess[0].mean() > excess[1].mean() > excess[2].mean() or not offset


def test_nll_sums_weights_per_example():
    weights = torch.tensor([[0.0, 0.0], [-1000.0, -1000.0 + math.log(3)]], dtype=torch.float64)
    assert importance_weighted_nll(weights).tolist() == pytest.approx([0.0, 1000 - math.log(2)])


def test_standard_error_is_the_spread_of_repetitions():
    model = LinearGaussian(3, 1.0, pixels=8)
    x = model.data(1).expand(1000, -1)
    weights = log_weights(model, x, model.mean_field(x), 400)
    spread = importance_weighted_nll(weights).std().item()
    assert nll_standard_error(weights).square().mean().sqrt().item() == pytest.approx(spread, rel=0.1)
    assert nll_standard_error(torch.full((2, 7), -30.0)).tolist() == [0, 0]
    assert nll_standard_error(torch.zeros(2, 1)).isnan().all()


def test_nested_nll_has_the_mean_and_less_noise():
    model = LinearGaussian(3, 1.0, pixels=8)
    x = model.data(1).expand(400, -1)
    weights = log_weights(model, x, model.mean_field(x, offset=0.3), 1000)
    single, nested = importance_weighted_nll(weights[:, :20]), nested_nll(weights, 20)
    assert nested.nll.mean().item() == pytest.approx(single.mean().item(), abs=3 * standard_error(single))
    assert nested.nll.std().item() == pytest.approx(single.std().item() / math.sqrt(50), rel=0.2)
    assert nested.standard_error.mean().item() == pytest.approx(nested.nll.std().item(), rel=0.1)
    torch.testing.assert_close(nested_nll(weights, 1000).nll, importance_weighted_nll(weights))


@steady
@given(SEEDS, SCALES, st.integers(1, 40), st.floats(-1e3, 1e3))
def test_statistics_are_invariant_to_order_and_scale(seed, scale, samples, constant):
    weights = random_weights(seed, scale, samples=samples)
    permuted = weights[:, torch.randperm(samples, generator=generator(seed))]
    for statistic in STATISTICS:
        expected = statistic(weights)
        assert close(statistic(permuted), expected)
        assert close(torch.cat([statistic(row) for row in weights.split(1)]), expected)
        if statistic is importance_weighted_nll:
            expected = expected - constant
        elif statistic is pareto_k and scale < 0.1:
            continue  # rounding decides whether the tail's weights are equal
        assert close(statistic(weights + constant), expected)


def random_weights(seed: int, scale: float, samples: int) -> torch.Tensor:
    return -90 + scale * torch.randn(3, samples, generator=generator(seed), dtype=torch.float64)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)


#: k̂ of ``scale`` times the normal quantiles at (i + ½) / S, computed by ``psislw`` of ArviZ 0.23.4.
NORMAL_TAILS = {
    (25, 1.0): 0.4501548211848337,
    (400, 1.0): 0.31399846795361874,
    (5000, 1.0): 0.26037134891188624,
    (5000, 3.0): 0.982925677964021,
}
#: k̂ of the quantiles at (i + ½) / 1000 of a generalised Pareto distribution with shape k, computed by the same.
PARETO_TAILS = {-0.3: -0.19976370775668617, 0.1: 0.14996426749948874, 0.5: 0.49708596126252214, 2.0: 1.7987023904889194}


def test_pareto_k_of_normal_weights_matches_arviz(subtests):
    for samples, scale in NORMAL_TAILS:
        with subtests.test(samples=samples, scale=scale):
            weights = scale * torch.special.ndtri((torch.arange(samples, dtype=torch.float64) + 0.5) / samples)
            shuffled = weights[torch.randperm(samples, generator=generator())]
            assert pareto_k(torch.stack([shuffled, weights - 5000])).tolist() == pytest.approx(
                [NORMAL_TAILS[samples, scale]] * 2, rel=1e-9
            )


def test_pareto_k_of_pareto_weights_matches_arviz(subtests):
    for k in PARETO_TAILS:
        with subtests.test(k=k):
            survival = 1 - (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
            assert pareto_k(((survival**-k - 1) / k).log().unsqueeze(0)).item() == pytest.approx(
                PARETO_TAILS[k], rel=1e-9
            )


def test_pareto_k_without_a_tail():
    assert pareto_k(torch.randn(2, 20, generator=generator())).isnan().all()
    equal = torch.full((2, 100), -30.0)
    equal[1] += 1e-5 * torch.rand(100, generator=generator())
    assert pareto_k(equal).tolist() == [-math.inf, -math.inf]
    single = torch.zeros(1, 100)
    single[0, 3] = 5.0
    assert pareto_k(single).isnan().all()
    assert pareto_k(torch.linspace(0, 5000, 100).unsqueeze(0)).item() > 10
