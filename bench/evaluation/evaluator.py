"""Every metric of a trained cell, from the model and the method's posterior alone.

``measure`` has the basic metrics, which validation takes too; ``groups`` those that can be measured of a finished cell
at any time. Everything is deterministic: noise belongs to blocks of fixed size, and memory decides only how many
samples of a block are decoded at a time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.core.cancellation import never
from bench.core.config import EVALUATION_VERSION, EvaluationConfig, TrainConfig
from bench.core.hashing import derive_seed, short_hash
from bench.data.tensors import Data
from bench.evaluation.chunking import auto_chunk_size, retry_with_smaller_chunk
from bench.evaluation.estimators.inference_gap import GRID_LEVELS, true_posterior
from bench.evaluation.estimators.latent_usage import collapse_curve, variance_ratio_units
from bench.evaluation.estimators.mutual_information import kl_aggregate_reverse
from bench.evaluation.metric_groups import GROUPS, Evaluation, TrainedModel
from bench.evaluation.metrics import EvaluationContext, Measurement, compute_metrics
from bench.evaluation.samples import qualitative_samples
from bench.method import Method
from bench.models.distributions import Gaussian
from bench.models.precision import autocast
from bench.models.vae import VAE, reparametrize_prior

__all__ = ["Evaluation", "evaluate"]

#: Test examples whose true posterior is drawn, where z has few enough dimensions for quadrature.
TRUE_MEANS = 50

#: A dimension counts as collapsed where its KL is below this, in nats, for all but a hundredth of the examples.
COLLAPSED_DIMENSION = 0.01
EPSILONS = np.logspace(-3, 1, 41)  # of the whole curve


def evaluate(
    method: Method,
    model: VAE,
    data: Data,
    train: TrainConfig,
    config: EvaluationConfig,
    seed: int,
    stored: Evaluation | None = None,
    keep: Callable[[Evaluation], object] = lambda made: None,
    provenance: Mapping[str, Any] | None = None,
    memory: float = 1.0,
    should_stop: Callable[[], bool] = never,
) -> Evaluation:
    """What ``config`` asks for of a trained model; of a ``stored`` evaluation only what it lacks is measured.

    Groups add to the basic metrics. Where these are measured anew so is every group that was stored, as it was. After
    the basic metrics and after each group ``keep`` gets all there is so far: a group that fails costs no other.
    ``memory``: a share of the usual budget. Where memory runs out all the same, less is decoded at a time. The record's
    ``chunk`` says how much at last; what is measured does not depend on it, but for the rounding of sums.
    """
    ctx = EvaluationContext(model.eval(), data.info, train, derive_seed(seed, "evaluation"), should_stop)
    _, blocks = data.blocks("test", config.test_examples, config.batch_size)
    chunk = auto_chunk_size(model, blocks, memory)
    record = stored.record if stored else {}
    missing = config.missing(record or None)
    before = {name: about["settings"] for name, about in record.get("groups", {}).items()} | record.get("pending", {})
    todo = {name: config.group(name) if name in config.metrics else before[name] for name in missing if name in GROUPS}
    if stored is None or "basic" in missing:
        todo = {name: settings for name, settings in before.items() if name in GROUPS} | todo
        made, chunk = retry_with_smaller_chunk(chunk, partial(basic, method, ctx, data, config))
        # Pending until they are measured: whatever happens meanwhile, no group is forgotten.
        made.record |= {"provenance": provenance, "pending": dict(todo)}
        keep(made)
        stored = made
    made = Evaluation(dict(stored.record), dict(stored.columns), stored.arrays, stored.texts)
    subject = partial(TrainedModel, method, ctx, data, config.batch_size, stored)
    failures = []
    for name, settings in todo.items():
        started = time.perf_counter()
        try:
            with autocast(model, config.precision, frozen=True):
                found, chunk = retry_with_smaller_chunk(chunk, lambda chunk: GROUPS[name](subject(chunk), **settings))  # noqa: B023
        except Exception as error:  # of one group; the others stand
            failures.append(error)
            continue
        seconds = time.perf_counter() - started
        about = {"settings": settings, "seconds": seconds, "chunk": chunk, "provenance": provenance}
        made.record["metrics"] = made.record["metrics"] | found.metrics
        made.record["groups"] = made.record.get("groups", {}) | {name: about}
        made.record["pending"] = {key: each for key, each in made.record.get("pending", {}).items() if key != name}
        made.columns |= found.columns
        keep(made)
    if failures:
        raise failures[0]
    return made


def basic(method: Method, ctx: EvaluationContext, data: Data, config: EvaluationConfig, chunk: int) -> Evaluation:
    """The basic metrics on the test set, with all that is kept beside them."""
    started = time.perf_counter()
    index, blocks = data.blocks("test", config.test_examples, config.batch_size, ctx.train.equal_lengths)
    with autocast(ctx.model, config.precision, frozen=True):
        result = compute_metrics(method, ctx, blocks, config.iw_samples, chunk)
    order = np.argsort(index)  # back from blocks to the order of the set
    columns = {"index": index[order]} | {name: values.numpy()[order] for name, values in result.examples.items()}
    ctx.block = 0
    metrics, arrays = summarised(ctx, result)
    metrics |= data.scaled(metrics["nll"], config.test_examples) | {"n": len(index)}
    arrays["means"] = result.means.cpu().numpy()[order]
    if ctx.model.latent_dim in GRID_LEVELS and reparametrize_prior(ctx.model) is ctx.model:
        with autocast(ctx.model, config.precision, frozen=True):
            arrays["true_means"] = true_means(ctx.model, data, arrays["means"][:TRUE_MEANS], chunk)
    drawn, texts = qualitative_samples(method, ctx, data, config.pictures) if config.pictures else ({}, None)
    record = {
        "evaluation_id": short_hash(config.base, 8),
        "version": EVALUATION_VERSION,
        "config": config.base,
        "metrics": metrics,
        "references": data.references(config.test_examples),
        "seconds": time.perf_counter() - started,
        "chunk": chunk,
    }
    return Evaluation(record, columns, arrays | drawn, texts)


@torch.no_grad()
def summarised(ctx: EvaluationContext, result: Measurement) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metrics of a test set, those of ``measure`` and what validation has no use for; and what is drawn of them."""
    examples, model = result.examples, ctx.model
    n = len(examples["nll"])
    latent = model.latent_dim > 0
    metrics: dict[str, Any] = result.metrics | {
        "nll_se": (examples["nll"].std() / math.sqrt(n)).item(),
        "nll_mc_se": (examples["nll_mc_se"].square().sum().sqrt() / n).item() if latent else None,
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


def true_means(model: VAE, data: Data, near: np.ndarray, chunk: int) -> np.ndarray:
    """The true posterior's means of the first test examples by quadrature: ``[M, D]``, as q's means ``near`` are."""
    index, (x,) = data.blocks("test", len(near), len(near))
    guess = torch.from_numpy(near[index]).to(x.device)
    found = np.empty(near.shape)
    found[index] = true_posterior(model, x, guess, chunk).mean.cpu().numpy()
    return found
