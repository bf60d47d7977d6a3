"""Every metric of a trained cell, from the model and the method's posterior alone."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.config import EvaluationConfig, TrainConfig, derive_seed
from bench.data import Data
from bench.datasets import DataInfo
from bench.estimators.inference import LATTICE, lag, true_posterior
from bench.estimators.information import (
    active_units,
    aggregate_log_prob,
    in_batch_mutual_information,
    informative_units,
    mutual_information,
)
from bench.estimators.likelihood import effective_sample_size, importance_weighted_nll
from bench.exhibits import exhibits
from bench.method import Context, Method, Phase
from bench.models.vae import VAE

#: Whole-set MI, in nats, below which a posterior counts as collapsed.
COLLAPSED_BELOW = 0.1

#: Test examples whose true posterior is drawn, where z has few enough dimensions for quadrature.
TRUE_MEANS = 50


class EvaluationContext(Context):
    """The handle that a method's posterior gets here: full KL weight, noise of its own for every block of examples.

    Blocks have a fixed size, so no number depends on how many samples memory allows at a time.
    """

    def __init__(self, model: VAE, data: DataInfo, train: TrainConfig, seed: int):
        self.model, self.data, self.train, self.phase, self.val = model, data, train, Phase(), {}
        self.device = next(model.parameters()).device
        self.seed, self.block = seed, 0

    def generator(self, purpose: str = "noise") -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, purpose, self.block))


@dataclass
class Measurement:
    """Metrics of a set, and the per-example values ``[N]`` and posterior means ``[N, D]`` behind them."""

    metrics: dict[str, float | int | bool | None]
    examples: dict[str, Tensor]
    means: Tensor


@torch.no_grad()
def measure(method: Method, ctx: EvaluationContext, blocks: Sequence[Tensor], samples: int, chunk: int) -> Measurement:
    """ELBO, its parts, importance-weighted NLL, information and use of the latent on N examples in ``blocks``
    ``[B, …]``, each encoded together.

    ``samples`` per example, decoded at most ``chunk`` (example, sample) pairs at a time. Without a latent the
    likelihood is exact and the other metrics are None.
    """
    model = ctx.model
    model.eval()
    latent = model.latent_dim > 0
    samples = samples if latent else 1
    posteriors, firsts, batch_mi, columns, kl_dims = [], [], [], [], []
    count = sum(map(len, blocks))
    for ctx.block, part in enumerate(blocks):
        q = method.posterior(ctx, part, train=False)
        z = q.rsample(samples, ctx.generator())
        step = max(1, chunk // len(part))
        log_px = torch.cat([model.log_prob(part, some) for some in z.split(step, dim=1)], dim=1)
        kl = model.prior.kl(q)
        log_ratio = q.log_prob(z) - model.prior.log_prob(z) if q.has_density else torch.full_like(log_px, math.nan)
        kl = log_ratio.mean(1) if kl is None else kl
        rec = -log_px.double().mean(1)
        columns.append(
            {
                "nll": importance_weighted_nll(log_px - log_ratio),
                "elbo": -(rec + kl),
                "rec": rec,
                "kl": kl.double(),
                "ess": effective_sample_size(log_px - log_ratio),
                "log_q": q.log_prob(z[:, :1]).squeeze(1) if q.has_density else log_ratio[:, 0],
            }
        )
        posteriors.append(q)
        kl_dims.append(model.prior.kl_dim(q))
        firsts.append(z[:, 0])
        if latent and q.has_pairwise:
            batch_mi.append(in_batch_mutual_information(q, z[:, 0]) * len(part) / count)
    examples = {name: torch.cat([column[name] for column in columns]).cpu() for name in columns[0]}
    log_q = examples.pop("log_q")
    means = torch.cat([q.mean for q in posteriors]).cpu()
    metrics = {name: examples[name].mean().item() for name in ("nll", "elbo", "rec", "kl")}
    metrics |= dict.fromkeys(("mi", "mi_batch", "kl_aggregate", "au", "au_kl", "collapsed"))
    if not latent:
        metrics["kl"] = None
    else:
        metrics["au"] = active_units(means)
        metrics["au_kl"] = informative_units(torch.cat(kl_dims)) if kl_dims[0] is not None else None
        if batch_mi:
            z = torch.cat(firsts)
            log_aggregate = aggregate_log_prob(posteriors, z).cpu()
            metrics["mi"] = mutual_information(log_q, log_aggregate)
            metrics["mi_batch"] = sum(batch_mi).item()
            metrics["kl_aggregate"] = (log_aggregate - model.prior.log_prob(z).double().cpu()).mean().item()
            metrics["collapsed"] = metrics["mi"] < COLLAPSED_BELOW
    return Measurement(metrics, examples, means)


def chunk_size(device: torch.device) -> int:
    """How many (example, sample) pairs to decode at a time: what a CPU cache or a GPU likes; of documents of 200 words
    at paper size less than a gigabyte."""
    return 100 if device.type == "cpu" else 300


def validate(method: Method, model: VAE, data: Data, train: TrainConfig, seed: int, with_lag: bool = False) -> dict:
    """Metrics on the validation set at KL weight 1, with the same noise every time; leaves the model in training mode.

    No NLL: with one sample it would be the ELBO under another name. ``with_lag``: also how far inference lags behind
    on the first ``lag_examples``.
    """
    ctx = EvaluationContext(model, data.info, train, derive_seed(seed, "validation"))
    _, blocks = data.blocks("val", train.val_examples, train.batch_size, train.equal_lengths)
    metrics = measure(method, ctx, blocks, samples=1, chunk=chunk_size(ctx.device)).metrics
    if with_lag and train.lag_examples and model.latent_dim:
        _, (x,) = data.blocks("val", train.lag_examples, train.lag_examples)
        ctx.block = 0
        with torch.no_grad():
            q = method.posterior(ctx, x, train=False)
        metrics |= lag(model, x, q, ctx.generator("lag"), chunk_size(ctx.device))
    model.train()
    return {name: value for name, value in metrics.items() if name not in ("nll", "collapsed")}


@dataclass
class Evaluation:
    """The test of a trained model: what goes into the cell's folder."""

    record: dict
    columns: dict[str, np.ndarray]  # per example
    arrays: dict[str, np.ndarray]  # for the report
    texts: dict[str, list] | None  # for the report, of text


def evaluate(
    method: Method, model: VAE, data: Data, train: TrainConfig, config: EvaluationConfig, seed: int
) -> Evaluation:
    started = time.perf_counter()
    ctx = EvaluationContext(model, data.info, train, derive_seed(seed, "evaluation"))
    index, blocks = data.blocks("test", config.test_examples, config.batch_size, train.equal_lengths)
    result = measure(method, ctx, blocks, config.iw_samples, chunk_size(ctx.device))
    metrics = result.metrics | {
        **data.scaled(result.metrics["nll"], config.test_examples),
        "nll_se": (result.examples["nll"].std() / math.sqrt(len(index))).item(),
        "ess": result.examples["ess"].mean().item() if model.latent_dim else None,
        "n": len(index),
    }
    ctx.block = 0
    order = np.argsort(index)  # back from blocks to the order of the set
    arrays = {"means": result.means.numpy()[order]}
    if model.latent_dim in LATTICE:
        arrays["true_means"] = true_means(model, data, arrays["means"][:TRUE_MEANS])
    drawn, texts = exhibits(method, ctx, data, config.pictures) if config.pictures else ({}, None)
    record = {
        "metrics": metrics,
        "references": data.references(config.test_examples),
        "seconds": time.perf_counter() - started,
    }
    columns = {"index": index[order]} | {name: values.numpy()[order] for name, values in result.examples.items()}
    return Evaluation(record, columns, arrays | drawn, texts)


def true_means(model: VAE, data: Data, near: np.ndarray) -> np.ndarray:
    """The true posterior's means of the first test examples by quadrature: ``[M, D]``, as q's means ``near`` are."""
    index, (x,) = data.blocks("test", len(near), len(near))
    guess = torch.from_numpy(near[index]).to(x.device)
    found = np.empty(near.shape)
    found[index] = true_posterior(model, x, guess, chunk_size(x.device)).mean.cpu().numpy()
    return found
