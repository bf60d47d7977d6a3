"""The basic metrics, on validation and on test: likelihood, its parts, information, use of the latent."""

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
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.estimators.inference_gap import lag
from bench.evaluation.estimators.latent_usage import active_units, informative_units
from bench.evaluation.estimators.likelihood import (
    effective_sample_size,
    importance_weighted_nll,
    nll_standard_error,
    pareto_k,
)
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

#: Whole-set MI, in nats, below which a posterior counts as collapsed.
COLLAPSED_BELOW = 0.1

#: Metrics of the code, None where there is none.
INFORMATION_METRICS = ("mi", "mi_loo", "mi_high", "mi_batch", "kl_aggregate", "au", "au_kl", "collapsed")


class EvaluationContext(Context):
    """The handle that a method's posterior gets here: full KL weight, noise of its own for every block of examples.

    Blocks have a fixed size, so no number depends on how many samples memory allows at a time.
    """

    def __init__(
        self,
        model: VAE,
        data: DataInfo,
        train: TrainConfig,
        seed: int,
        should_stop: Callable[[], bool] = never,
    ):
        self.model, self.data, self.train, self.phase, self.val = model, data, train, Phase(), {}
        self.device = next(model.parameters()).device
        self.seed, self.block, self.should_stop = seed, 0, should_stop

    def check_cancelled(self) -> None:
        """Raise ``Interrupted`` if the work was asked to stop."""
        if self.should_stop():
            raise Interrupted

    def generator(self, purpose: str = "noise") -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, purpose, self.block))


@dataclass
class Measurement:
    """Metrics of N examples, and what is behind them: values per example ``[N]``, the posteriors of their blocks, a
    sample z ``[N, D]`` of each, and KL per dimension ``[N, D]`` where the prior has it in closed form."""

    metrics: dict[str, float | int | bool | None]
    examples: dict[str, Tensor]
    posteriors: list[Posterior]
    z: Tensor
    kl_dim: Tensor | None

    @property
    def means(self) -> Tensor:
        return torch.cat([q.mean for q in self.posteriors])


@torch.no_grad()
def compute_metrics(
    method: Method, ctx: EvaluationContext, blocks: Sequence[Tensor], samples: int, chunk: int
) -> Measurement:
    """ELBO, its parts, importance-weighted NLL, information and use of the latent on N examples in ``blocks``
    ``[B, …]``, each encoded together.

    ``samples`` per example, decoded at most ``chunk`` (example, sample) pairs at a time. Without a latent the
    likelihood is exact and the other metrics are None.
    """
    model = ctx.model
    model.eval()
    latent = model.latent_dim > 0
    posteriors, firsts, columns, kl_dims = [], [], [], []
    for ctx.block, part in enumerate(blocks):
        ctx.check_cancelled()
        q = method.posterior(ctx, part, train=False)
        z = q.rsample(samples if latent else 1, ctx.generator())
        log_px = chunked_log_prob(model, part, z, chunk)
        kl = model.prior.kl(q)
        log_ratio = q.log_prob(z) - model.prior.log_prob(z) if q.has_density else torch.full_like(log_px, math.nan)
        if kl is None:
            kl = log_ratio.mean(1) if q.has_density else q.kl  # type: ignore[attr-defined]
        rec = -log_px.double().mean(1)
        columns.append({"elbo": -(rec + kl), "rec": rec, "kl": kl.double(), **is_diagnostics(log_px - log_ratio)})
        posteriors.append(q)
        firsts.append(z[:, 0])
        kl_dims.append(model.prior.kl_dim(q))
    examples = {name: torch.cat([column[name] for column in columns]).cpu() for name in columns[0]}
    kl_dim = None if kl_dims[0] is None else torch.cat(kl_dims)
    made = Measurement({}, examples, posteriors, torch.cat(firsts), kl_dim)
    made.metrics |= {name: examples[name].mean().item() for name in ("nll", "elbo", "rec", "kl")}
    made.metrics |= (
        information_metrics(model, made, [*map(len, blocks)]) if latent else dict.fromkeys(("kl", *INFORMATION_METRICS))
    )
    return made


def chunked_log_prob(model: VAE, x: Tensor, z: Tensor, chunk: int) -> Tensor:
    """log p(x|z): x ``[B, …]``, z ``[B, S, D]`` -> ``[B, S]``, at most ``chunk`` pairs at a time."""
    parts = []
    for some, points in zip(x.split(chunk), z.split(chunk), strict=True):
        step = max(1, chunk // len(some))
        parts.append(torch.cat([model.log_prob(some, few) for few in points.split(step, dim=1)], dim=1))
    return torch.cat(parts)


def log_weights(model: VAE, x: Tensor, q: Posterior, z: Tensor, chunk: int) -> Tensor:
    """log p(x, z) - log q(z|x): ``[B, S]``. NaN where q has no density."""
    log_q = q.log_prob(z) if q.has_density else math.nan
    return chunked_log_prob(model, x, z, chunk) + model.prior.log_prob(z) - log_q


def is_diagnostics(log_weights: Tensor) -> dict[str, Tensor]:
    """The importance-weighted NLL of each example, and how far it can be trusted: log weights ``[B, S]`` -> ``[B]``."""
    return {
        "nll": importance_weighted_nll(log_weights),
        "nll_mc_se": nll_standard_error(log_weights),
        "ess": effective_sample_size(log_weights),
        "pareto_k": pareto_k(log_weights),
    }


def information_metrics(model: VAE, made: Measurement, blocks: list[int]) -> dict[str, float | int | bool | None]:
    """What the code tells about the data, and the units in use; None where the posterior does not say.

    ``blocks`` are the numbers of examples that He et al.'s estimate takes together.
    """
    found: dict[str, float | int | bool | None] = dict.fromkeys(INFORMATION_METRICS)
    found["au"] = active_units(made.means)
    if made.kl_dim is not None:
        found["au_kl"] = informative_units(made.kl_dim)
    if all(q.has_pairwise for q in made.posteriors):
        log_probs = sample_log_probs(made.posteriors, made.z)
        bracket = mutual_information_bracket(log_probs, rate=made.examples["kl"].mean().item())
        within = [
            in_batch_mutual_information(q, z).item() * len(z) / len(made.z)
            for q, z in zip(made.posteriors, made.z.split(blocks), strict=True)
        ]
        found |= {"mi": bracket.low, "mi_loo": bracket.loo, "mi_high": bracket.high, "mi_batch": sum(within)}
        found["kl_aggregate"] = kl_aggregate(log_probs.inclusive, model.prior.log_prob(made.z))
        found["collapsed"] = bracket.low < COLLAPSED_BELOW if math.isfinite(bracket.low) else None
    return found


@torch.no_grad()
def mean_loss(method: Method, ctx: EvaluationContext, blocks: Sequence[Tensor]) -> float:
    """The method's own objective, per example of ``blocks``, as it is taken in training but by the networks at rest."""
    ctx.model.eval()
    total = 0.0
    for ctx.block, x in enumerate(blocks):
        total += len(x) * method.objective(ctx, x).item()
    return total / sum(map(len, blocks))


def validate(
    method: Method,
    model: VAE,
    data: Data,
    train: TrainConfig,
    seed: int,
    with_lag: bool = False,
    with_loss: bool = False,
) -> dict:
    """Metrics on the validation set at KL weight 1, with the same noise every time; leaves the model in training mode.

    No NLL: with one sample it would be the ELBO under another name. ``with_lag``: also how far inference lags behind
    on the first ``lag_examples``. ``with_loss``: also the method's own.
    """
    ctx = EvaluationContext(model, data.info, train, derive_seed(seed, "validation"))
    _, blocks = data.blocks("val", train.val_examples, train.batch_size, train.equal_lengths)
    with autocast(model, train.precision, frozen=True):
        metrics = compute_metrics(method, ctx, blocks, samples=1, chunk=train.batch_size).metrics
        if with_loss:
            metrics["loss"] = mean_loss(method, ctx, blocks)
        if with_lag and train.lag_examples and model.latent_dim and reparametrize_prior(model) is model:
            _, (x,) = data.blocks("val", train.lag_examples, train.lag_examples)
            ctx.block = 0
            with torch.no_grad():
                q = method.posterior(ctx, x, train=False)
            metrics |= lag(model, x, q, ctx.generator("lag"), auto_chunk_size(model, [x]))
    model.train()
    return {name: value for name, value in metrics.items() if name not in ("nll", "collapsed")}
