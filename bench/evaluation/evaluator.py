"""Evaluation of a trained model: the basic metrics, then the metric groups.

Needs the model and the method's posterior alone. Deterministic: noise is drawn per block of fixed size, and the memory
budget only decides how many samples of a block are decoded at a time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.core.cancellation import never
from bench.core.config import TrainConfig, build
from bench.core.hashing import derive_seed
from bench.core.provenance import Provenance
from bench.data.tensors import Data
from bench.evaluation.chunking import auto_chunk_size, retry_with_smaller_chunk
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.estimators.inference_gap import GRID_LEVELS, true_posterior
from bench.evaluation.estimators.latent_usage import collapse_curve, variance_ratio_units
from bench.evaluation.estimators.mutual_information import kl_aggregate_reverse
from bench.evaluation.metrics import EvaluationContext, Measurement, compute_metrics
from bench.evaluation.record import Evaluation, EvaluationRecord, GroupRecord
from bench.evaluation.registry import GroupResult, metric_groups
from bench.evaluation.samples import qualitative_samples
from bench.evaluation.trained_model import TrainedModel
from bench.method import Method
from bench.models.distributions import Gaussian
from bench.models.precision import autocast
from bench.models.vae import VAE, reparametrize_prior

#: Test examples whose true posterior mean is stored for the report, if quadrature can compute it.
NUM_TRUE_MEANS = 50

#: Metrics that are not defined for a posterior without density.
NEED_DENSITY = {"iw_nll", "iw_nll_se", "iw_nll_mc_se", "ess", "pareto_k", "ppl", "bpd"}

#: A dimension counts as collapsed if its KL is below this, in nats, for 99 % of the examples.
COLLAPSED_DIMENSION = 0.01
EPSILONS = np.logspace(-3, 1, 41)  # of the collapse curve, in nats


def evaluate(
    method: Method,
    model: VAE,
    data: Data,
    train: TrainConfig,
    config: EvaluationConfig,
    seed: int,
    stored: Evaluation | None = None,
    save: Callable[[Evaluation], object] = lambda evaluation: None,
    provenance: Provenance | None = None,
    should_stop: Callable[[], bool] = never,
) -> Evaluation:
    """Measure what a ``stored`` evaluation lacks of ``config``, and return the complete evaluation.

    ``save`` receives the evaluation so far after the basic metrics and after each group, so a group that fails costs no
    other; its error is raised at the end. Recomputing the basic metrics also recomputes every stored group, with its
    previous settings. If memory runs out, less is decoded at a time; the record's ``chunk`` is the last size. Metrics
    do not depend on it, except for rounding.
    """
    if config.split == "val":
        data = data.with_val_as_test()
    ctx = EvaluationContext(model.eval(), data.info, train, derive_seed(seed, "evaluation"), should_stop)
    _, blocks = data.blocks("test", config.test_examples, config.batch_size)
    chunk = auto_chunk_size(model, blocks)
    record = stored.record if stored else None
    groups = _groups_to_measure(config, record)
    if stored is None or "basic" in config.missing(record):
        basic, chunk = retry_with_smaller_chunk(chunk, partial(evaluate_basic, method, ctx, data, config))
        # Groups are pending until they are measured, so that an interrupted evaluation omits none.
        stored = _updated(basic, provenance=provenance, pending=groups)
        save(stored)
    trained = TrainedModel(method, ctx, data, config, stored)
    evaluation, failures = stored, []
    for name, settings in groups.items():
        started = time.perf_counter()
        try:
            result, chunk = retry_with_smaller_chunk(chunk, partial(measure_group, trained, name, settings))
        except Exception as error:
            failures.append(error)
            continue
        seconds = time.perf_counter() - started
        group = GroupRecord(settings=settings, seconds=seconds, chunk=chunk, provenance=provenance)
        record = evaluation.record.with_metrics(result.metrics)
        evaluation = _updated(
            replace(evaluation, record=record, columns={**evaluation.columns, **result.columns}),
            groups={**record.groups, name: group},
            pending={other: settings for other, settings in record.pending.items() if other != name},
        )
        save(evaluation)
    if failures:
        raise failures[0]
    return evaluation


def _groups_to_measure(config: EvaluationConfig, record: EvaluationRecord | None) -> dict[str, dict[str, Any]]:
    """Return the groups to measure and their settings: those asked for, and stored ones that must be repeated."""
    missing, groups = config.missing(record), {name: config.group(name) for name in config.metrics}
    if record is not None:
        groups = {name: group.settings for name, group in record.groups.items()} | record.pending | groups
    return {
        name: settings
        for name, settings in groups.items()
        if name in config.groups and (name in missing or "basic" in missing)
    }


def _updated(evaluation: Evaluation, **changes: Any) -> Evaluation:
    return replace(evaluation, record=evaluation.record.model_copy(update=changes))


@torch.no_grad()
def measure_group(trained: TrainedModel, name: str, settings: Mapping[str, Any], chunk: int) -> GroupResult:
    """Measure one metric group of a model whose basic metrics are known."""
    group = metric_groups()[name]
    with autocast(trained.ctx.model, trained.config.precision, frozen=True):
        return group.measure(replace(trained, chunk=chunk), build(group.settings, settings, f"metric group {name}"))


def evaluate_basic(
    method: Method, ctx: EvaluationContext, data: Data, config: EvaluationConfig, chunk: int
) -> Evaluation:
    """Measure the basic metrics on the test set, with the arrays and samples that are stored for the report."""
    started = time.perf_counter()
    index, blocks = data.blocks("test", config.test_examples, config.batch_size, ctx.train.equal_lengths)
    with autocast(ctx.model, config.precision, frozen=True):
        result = compute_metrics(method, ctx, blocks, config.iw_samples, chunk)
    order = np.argsort(index)  # from the order of the blocks to that of the test set
    columns = {"index": index[order]} | {name: values.numpy()[order] for name, values in result.examples.items()}
    ctx.block = 0
    metrics, arrays = test_set_metrics(ctx, result)
    metrics |= data.unit_metrics(result.metrics["iw_nll"], config.test_examples) | {"n": len(index)}
    if not all(q.has_density for q in result.posteriors):
        metrics |= dict.fromkeys(metrics.keys() & NEED_DENSITY)
    arrays["means"] = result.means.cpu().numpy()[order]
    if ctx.model.latent_dim in GRID_LEVELS and reparametrize_prior(ctx.model) is ctx.model:
        with autocast(ctx.model, config.precision, frozen=True):
            arrays["true_means"] = true_means(ctx.model, data, arrays["means"][:NUM_TRUE_MEANS], chunk)
    images, texts = qualitative_samples(method, ctx, data, config.pictures) if config.pictures else ({}, None)
    record = EvaluationRecord(
        settings=config.basic,
        metrics={},
        references={**data.references(config.test_examples)},
        seconds=time.perf_counter() - started,
        chunk=chunk,
    ).with_metrics(metrics)
    return Evaluation(record, columns, arrays | images, texts)


@torch.no_grad()
def test_set_metrics(ctx: EvaluationContext, result: Measurement) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metrics of ``result`` with those that only a test set has, and arrays for the report's figures."""
    examples, model = result.examples, ctx.model
    n = len(examples["iw_nll"])
    latent = model.latent_dim > 0
    metrics: dict[str, Any] = result.metrics | {
        "iw_nll_se": examples["iw_nll"].std().item() / math.sqrt(n) if n > 1 else math.nan,
        "iw_nll_mc_se": (examples["iw_nll_mc_se"].square().sum().sqrt() / n).item() if latent else None,
        "ess": examples["ess"].mean().item() if latent else None,
        "pareto_k": examples["pareto_k"].nanmedian().item() if latent else None,
        **dict.fromkeys(("kl_aggregate_reverse", "au_ratio", "collapsed_dims")),
    }
    arrays: dict[str, np.ndarray] = {}
    if latent and all(q.has_pairwise for q in result.posteriors):
        metrics["kl_aggregate_reverse"] = kl_aggregate_reverse(result.posteriors, model.prior, ctx.generator("prior"))
    gaussians = [q for q in result.posteriors if isinstance(q, Gaussian)]
    if latent and len(gaussians) == len(result.posteriors):
        variances = torch.cat([q.logvar.exp() for q in gaussians])
        metrics["au_ratio"] = variance_ratio_units(result.means, variances)
    if latent and result.kl_dim is not None:
        curve = collapse_curve(result.kl_dim, torch.from_numpy(EPSILONS))
        metrics["collapsed_dims"] = collapse_curve(result.kl_dim, torch.tensor([COLLAPSED_DIMENSION])).item()
        arrays["kl_dim"] = result.kl_dim.double().mean(0).cpu().numpy()
        arrays["collapse"] = np.stack([EPSILONS, curve.cpu().numpy()])
    return metrics, arrays


def true_means(model: VAE, data: Data, means: np.ndarray, chunk: int) -> np.ndarray:
    """Return the means of the true posteriors of the first M test examples by quadrature.

    ``means`` are those of q; both are ``[M, D]``.
    """
    index, (x,) = data.blocks("test", len(means), len(means))
    guess = torch.from_numpy(means[index]).to(x.device)
    result = np.empty(means.shape)
    result[index] = true_posterior(model, x, guess, chunk).mean.cpu().numpy()
    return result
