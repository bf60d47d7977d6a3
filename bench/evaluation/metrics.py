"""The basic metrics of the validation and test set: likelihood, ELBO and its parts, information, use of the latent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.cancellation import Interrupted, never
from bench.core.config import TrainConfig
from bench.core.hashing import derive_seed
from bench.data.dataset import DataInfo
from bench.data.tensors import Data
from bench.evaluation.chunking import auto_chunk_size, chunked_log_prob
from bench.evaluation.estimators.inference_gap import lag
from bench.evaluation.estimators.latent_usage import active_units, informative_units
from bench.evaluation.estimators.likelihood import is_diagnostics
from bench.evaluation.estimators.mutual_information import (
    in_batch_mutual_information,
    kl_aggregate,
    mutual_information_bracket,
    sample_log_probs,
)
from bench.method import Context, Method, Phase
from bench.models.distributions import Posterior
from bench.models.precision import autocast
from bench.models.vae import VAE, reparametrize_prior

#: A posterior counts as collapsed if its whole-set MI is below this, in nats.
COLLAPSED_BELOW = 0.1

#: Metrics of the latent code; None for models without one.
INFORMATION_METRICS = ("mi", "mi_loo", "mi_high", "mi_batch", "kl_aggregate", "au", "au_kl", "collapsed")

Metrics = dict[str, float | int | bool | None]


class EvaluationContext(Context):
    """Context of a method's posterior in evaluation: KL weight 1, and separate noise for every block of examples.

    Blocks have a fixed size, so no number depends on how many samples memory allows at a time.
    """

    def __init__(
        self, model: VAE, data: DataInfo, train: TrainConfig, seed: int, should_stop: Callable[[], bool] = never
    ):
        self.model, self.data, self.train, self.phase, self.val = model, data, train, Phase(), {}
        self.device = next(model.parameters()).device
        self.seed, self.block, self.should_stop = seed, 0, should_stop

    def check_cancelled(self) -> None:
        """Raise ``Interrupted`` if the work was asked to stop."""
        if self.should_stop():
            raise Interrupted

    def generator(self, purpose: str = "noise") -> torch.Generator:
        """Return a new generator, determined by the seed, the purpose and the current block."""
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, purpose, self.block))


@dataclass
class Measurement:
    """Metrics of N examples and the tensors that they are computed from."""

    metrics: Metrics
    examples: dict[str, Tensor]  # [N] each, values per example
    posteriors: list[Posterior]  # of consecutive blocks of examples
    z: Tensor  # [N, D], one sample per example
    kl_dim: Tensor | None  # [N, D], None if the prior has no closed form per dimension

    @property
    def means(self) -> Tensor:
        return torch.cat([q.mean for q in self.posteriors])  # (N, D)


@torch.no_grad()
def compute_metrics(
    method: Method, ctx: EvaluationContext, blocks: Sequence[Tensor], samples: int, chunk: int
) -> Measurement:
    """Compute ELBO, its parts, importance-weighted NLL, information and use of the latent.

    ``blocks`` ``[B, …]`` of examples are encoded together; ``samples`` of z per example are decoded, at most ``chunk``
    (example, sample) pairs at a time. Without a latent the likelihood is exact and the other metrics are None.
    """
    model = ctx.model
    model.eval()
    has_latent = model.latent_dim > 0
    posteriors, first_samples, columns, kl_dims = [], [], [], []
    for ctx.block, x in enumerate(blocks):
        ctx.check_cancelled()
        q = method.posterior(ctx, x, train=False)
        z = q.rsample(samples if has_latent else 1, ctx.generator())  # (B, S, D)
        log_px = chunked_log_prob(model, x, z, chunk)  # (B, S)
        kl = model.prior.kl(q)  # (B,)
        log_ratio = q.log_prob(z) - model.prior.log_prob(z) if q.has_density else torch.full_like(log_px, math.nan)
        if kl is None:
            kl = log_ratio.mean(1) if q.has_density else q.kl  # type: ignore[attr-defined]
        rec = -log_px.double().mean(1)
        columns.append({"elbo": -(rec + kl), "rec": rec, "kl": kl.double(), **is_diagnostics(log_px - log_ratio)})
        posteriors.append(q)
        first_samples.append(z[:, 0])
        kl_dims.append(model.prior.kl_dim(q))
    examples = {name: torch.cat([column[name] for column in columns]).cpu() for name in columns[0]}
    kl_dim = None if kl_dims[0] is None else torch.cat(kl_dims)
    metrics: Metrics = {name: examples[name].mean().item() for name in ("iw_nll", "elbo", "rec", "kl")}
    result = Measurement(metrics, examples, posteriors, torch.cat(first_samples), kl_dim)
    metrics |= information_metrics(model, result) if has_latent else dict.fromkeys(("kl", *INFORMATION_METRICS))
    return result


def log_weights(model: VAE, x: Tensor, q: Posterior, z: Tensor, chunk: int) -> Tensor:
    """Return log p(x, z) - log q(z|x): x ``[B, …]``, z ``[B, S, D]`` -> ``[B, S]``. NaN if q has no density."""
    log_q = q.log_prob(z) if q.has_density else math.nan
    return chunked_log_prob(model, x, z, chunk) + model.prior.log_prob(z) - log_q


def information_metrics(model: VAE, result: Measurement) -> Metrics:
    """Return mutual information, divergence of the aggregate posterior, and counts of units in use.

    None where the posterior lacks the density that a metric needs. He et al.'s in-batch estimate is computed over the
    blocks of examples that were encoded together.
    """
    metrics: Metrics = dict.fromkeys(INFORMATION_METRICS)
    metrics["au"] = active_units(result.means)
    if result.kl_dim is not None:
        metrics["au_kl"] = informative_units(result.kl_dim)
    if all(q.has_pairwise for q in result.posteriors):
        log_probs = sample_log_probs(result.posteriors, result.z)
        bracket = mutual_information_bracket(log_probs, rate=result.examples["kl"].mean().item())
        blocks = result.z.split([len(q.mean) for q in result.posteriors])
        in_batch = [
            in_batch_mutual_information(q, z).item() * len(z) / len(result.z)
            for q, z in zip(result.posteriors, blocks, strict=True)
        ]
        metrics |= {"mi": bracket.low, "mi_loo": bracket.loo, "mi_high": bracket.high}
        metrics["mi_batch"] = sum(in_batch) if len(result.z) > 1 else math.nan
        metrics["kl_aggregate"] = kl_aggregate(log_probs.inclusive, model.prior.log_prob(result.z))
        metrics["collapsed"] = bracket.low < COLLAPSED_BELOW if math.isfinite(bracket.low) else None
    return metrics


@torch.no_grad()
def validate(
    method: Method,
    model: VAE,
    data: Data,
    train: TrainConfig,
    seed: int,
    with_lag: bool = False,
    with_loss: bool = False,
) -> Metrics:
    """Return the metrics of the validation set at KL weight 1, and leave the model in training mode.

    The noise is the same each time. There is no NLL: with one sample it would equal the negative ELBO. ``with_lag``
    adds the inference lag on the first ``lag_examples``, ``with_loss`` the method's own objective in nats per example.
    """
    ctx = EvaluationContext(model, data.info, train, derive_seed(seed, "validation"))
    _, blocks = data.blocks("val", train.val_examples, train.batch_size, train.equal_lengths)
    with autocast(model, train.precision, frozen=True):
        metrics = compute_metrics(method, ctx, blocks, samples=1, chunk=train.batch_size).metrics
        if with_loss:
            losses = []
            for ctx.block, x in enumerate(blocks):
                losses.append(len(x) * method.objective(ctx, x).item())
            metrics["loss"] = sum(losses) / sum(map(len, blocks))
        if with_lag and train.lag_examples and model.latent_dim and reparametrize_prior(model) is model:
            _, (x,) = data.blocks("val", train.lag_examples, train.lag_examples)
            ctx.block = 0
            q = method.posterior(ctx, x, train=False)
            metrics |= lag(model, x, q, ctx.generator("lag"), auto_chunk_size(model, [x]))
    model.train()
    return {name: value for name, value in metrics.items() if name not in ("iw_nll", "collapsed")}
