"""Importance weights: bounds in their order, and diagnostics that depend on the weights and on nothing else."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.evaluation.estimators import likelihood
from bench.evaluation.estimators.likelihood import (
    effective_sample_size,
    importance_weighted_nll,
    nested_nll,
    nll_standard_error,
    pareto_k,
)
from tests.conftest import steady

SEEDS = st.integers(0, 2**32)
SCALES = st.sampled_from((0.0, 1e-6, 0.1, 1.0, 5.0, 50.0, 1e4))
STATISTICS = (importance_weighted_nll, effective_sample_size, nll_standard_error, pareto_k)


def weights(seed: int, scale: float, examples: int = 3, samples: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -90 + scale * torch.randn(examples, samples, generator=generator, dtype=torch.float64)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)


@steady
@given(SEEDS, SCALES, st.integers(1, 4), st.integers(1, 4))
def test_the_bound_tightens_with_the_samples_in_a_group(seed, scale, few, factor):
    log_weights = weights(seed, scale, samples=few * factor * 3)
    less, more = nested_nll(log_weights, few).nll, nested_nll(log_weights, few * factor).nll
    assert (more <= less + 1e-9).all()  # by Jensen's inequality, of the same weights
    whole = importance_weighted_nll(log_weights)
    assert (whole <= more + 1e-9).all() and same(nested_nll(log_weights, log_weights.shape[1]).nll, whole)
    assert (whole >= -log_weights.amax(1) - 1e-9).all() and (whole <= -log_weights.mean(1) + 1e-9).all()
    assert same(nested_nll(log_weights, 1).nll, -log_weights.mean(1))


@steady
@given(SEEDS, SCALES, st.integers(1, 40))
def test_the_order_of_samples_and_the_company_of_examples_do_not_matter(seed, scale, samples):
    log_weights = weights(seed, scale, samples=samples)
    generator = torch.Generator().manual_seed(seed)
    samples_moved = log_weights[:, torch.randperm(samples, generator=generator)]
    examples = torch.randperm(len(log_weights), generator=generator)
    for statistic in STATISTICS:
        whole = statistic(log_weights)
        assert same(statistic(samples_moved), whole), statistic
        assert same(statistic(log_weights[examples]), whole[examples]), statistic
        assert same(torch.cat([statistic(row) for row in log_weights.split(1)]), whole), statistic


@steady
@given(SEEDS, SCALES, st.floats(-1e3, 1e3))
def test_a_constant_moves_the_bound_and_nothing_else(seed, scale, constant):
    log_weights = weights(seed, scale)
    assert same(importance_weighted_nll(log_weights + constant), importance_weighted_nll(log_weights) - constant)
    for diagnostic in (effective_sample_size, nll_standard_error):
        assert same(diagnostic(log_weights + constant), diagnostic(log_weights))
    if scale >= 0.1:  # else by the tail's rounding
        assert same(pareto_k(log_weights + constant), pareto_k(log_weights))


@steady
@given(SEEDS, SCALES, st.integers(1, 60))
def test_diagnostics_stay_within_their_range(seed, scale, samples):
    log_weights = weights(seed, scale, samples=samples)
    size = effective_sample_size(log_weights)
    assert (size >= 1 - 1e-9).all() and (size <= samples + 1e-6).all()
    error = nll_standard_error(log_weights)
    assert error.isnan().all() if samples < 2 else ((error >= 0) & (error <= math.sqrt(samples) + 1)).all()
    k = pareto_k(log_weights)
    if min(samples / 5, 3 * math.sqrt(samples)) <= likelihood.TAIL_AT_LEAST - 1:
        assert k.isnan().all()
    else:
        assert k.isneginf().all() if scale <= 1e-6 else k.isfinite().all()


@steady
@given(st.integers(1, 60), st.floats(-1e6, 1e6))
def test_equal_weights_are_worth_all_their_samples(samples, value):
    log_weights = torch.full((2, samples), value, dtype=torch.float64)
    assert importance_weighted_nll(log_weights).tolist() == pytest.approx([-value] * 2, abs=1e-6)
    assert effective_sample_size(log_weights).tolist() == pytest.approx([samples] * 2)
