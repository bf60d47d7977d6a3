"""Groups of metrics that can be measured of a finished cell at any time, on a fixed sample of the examples judged.

A group is a function ``(subject, **settings) -> Found``; its settings are those of ``EvaluationConfig`` that begin with
its name. It adds to the basic evaluation and changes nothing in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.data.tensors import Data
from bench.evaluation.estimators.ais import ais_log_weights
from bench.evaluation.estimators.latent_usage import coupled_samples, distortion_gaps
from bench.evaluation.estimators.likelihood import effective_sample_size, importance_weighted_nll, nested_nll
from bench.evaluation.estimators.linear_probe import chance_accuracy, few_label_accuracy, linear_probe
from bench.evaluation.estimators.proposal import refined_log_weights, refined_proposal
from bench.evaluation.metrics import EvaluationContext, is_diagnostics, log_weights
from bench.method import Method
from bench.models.distributions import Posterior
from bench.models.vae import reparametrize_prior

CONVERGENCE = (50, 500, 5000)  # samples
FEW_LABELS = (100, 500, 1000)
USE_SAMPLES = 4  # of z per example


@dataclass
class Evaluation:
    """The test of a trained model: what goes into the cell's folder."""

    record: dict[str, Any]  # evaluation.json
    columns: dict[str, np.ndarray]  # per example, in the order of the set
    arrays: dict[str, np.ndarray]  # for the report
    texts: dict[str, list] | None = None  # for the report, of text


class Block(NamedTuple):
    """Examples encoded together: their places among those judged, x ``[B, …]`` and q."""

    places: np.ndarray
    x: Tensor
    q: Posterior


@dataclass(frozen=True)
class TrainedModel:
    """A trained model under test, with what the basic evaluation found."""

    method: Method
    ctx: EvaluationContext
    data: Data
    batch_size: int
    basic: Evaluation
    chunk: int  # (example, sample) pairs decoded at a time

    @property
    def latent(self) -> bool:
        return self.ctx.model.latent_dim > 0

    def blocks(self, count: int) -> Iterator[Block]:
        """``count`` examples, evenly spaced among those judged and so the same ones for every cell; ``ctx`` gives each
        block its noise."""
        n = len(self.basic.columns["index"])
        sample = np.unique(np.linspace(0, n - 1, min(count, n)).round().astype(np.int64))
        places, blocks = self.data.blocks("test", sample, self.batch_size)
        start = 0
        for self.ctx.block, x in enumerate(blocks):
            self.ctx.check_cancelled()
            yield Block(places[start : start + len(x)], x, self.method.posterior(self.ctx, x, train=False))
            start += len(x)


@dataclass(frozen=True)
class GroupResult:
    """Metrics of the set, and values per example (NaN outside the sample) in the order of the set."""

    metrics: Mapping[str, float | int | None]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


@torch.no_grad()
def refined_iw(subject: TrainedModel, examples: int, steps: int, samples: int) -> GroupResult:
    """The NLL under a proposal refined in the same way for every method, so that it compares decoders, not encoders.

    Refined on a sample alone, for it costs, and carried over to all by ``of_all``.
    """
    plain, elbo = subject.basic.columns["nll"], subject.basic.columns["elbo"]
    if not subject.latent:  # the plain NLL is exact
        names = ("ess_refined", "pareto_k_refined", "elbo_refined", "gap_amortisation", "gap_approximation")
        exact = with_se("nll_refined", regression_estimate(plain, np.arange(len(plain)), plain))
        return GroupResult(exact | dict.fromkeys((*names, "gap_inference")), {"nll_refined": plain})
    places, parts = [], []
    model, chunk = reparametrize_prior(subject.ctx.model), subject.chunk
    for block in subject.blocks(examples):
        generator = subject.ctx.generator("common")
        found = refined_log_weights(model, block.x, block.q, generator, chunk, steps=steps, draws=samples)
        parts.append({"refined": found.elbo.double(), **is_diagnostics(found.log_weights)})
        places.append(block.places)
    sampled = np.concatenate(places)
    values = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    amortisation, approximation = values["refined"] - elbo[sampled], -values["nll"] - values["refined"]
    metrics = {
        **with_se("nll_refined", regression_estimate(plain, sampled, values["nll"])),
        "ess_refined": float(values["ess"].mean()),
        "pareto_k_refined": float(np.nanmedian(values["pareto_k"])),
        "elbo_refined": float(values["refined"].mean()),
        "gap_amortisation": float(amortisation.mean()),
        "gap_approximation": float(approximation.mean()),
        "gap_inference": float((amortisation + approximation).mean()),
    }
    columns = {
        "nll_refined": values["nll"],
        "pareto_k_refined": values["pareto_k"],
        "elbo_refined": values["refined"],
    }
    return GroupResult(
        metrics, {name: scatter_to_full(column, sampled, len(plain)) for name, column in columns.items()}
    )


@torch.no_grad()
def convergence(subject: TrainedModel, examples: int) -> GroupResult:
    """The plain estimate with more and more samples: where it still falls, it is not yet the NLL."""
    names = [f"nll_{count}{end}" for count in CONVERGENCE for end in ("", "_se")]
    lacking = GroupResult(dict.fromkeys([*names, "ess_5000"]))
    if not subject.latent:
        return lacking
    estimates: dict[int, list[Tensor]] = {count: [] for count in CONVERGENCE}
    errors: dict[int, list[Tensor]] = {count: [] for count in CONVERGENCE}
    places, share = [], []
    for block in subject.blocks(examples):
        if not block.q.has_density:
            return lacking
        z = block.q.rsample(max(CONVERGENCE), subject.ctx.generator("convergence"))
        weights = log_weights(subject.ctx.model, block.x, block.q, z, subject.chunk)
        for count in CONVERGENCE:
            found = nested_nll(weights, count)
            estimates[count].append(found.nll)
            errors[count].append(found.standard_error)
        share.append(effective_sample_size(weights) / weights.shape[1])
        places.append(block.places)
    plain, sampled = subject.basic.columns["nll"], np.concatenate(places)
    share_of = np.full(
        len(plain), 1 / len(plain)
    )  # what a plain estimate counts in the mean of all, less in the sample's
    share_of[sampled] -= 1 / len(sampled)
    from_plain = float(np.nansum(np.square(share_of * subject.basic.columns["nll_mc_se"])))
    metrics: dict[str, float | int | None] = {"ess_5000": torch.cat(share).mean().item()}
    for count in CONVERGENCE:
        error = torch.cat(errors[count]).cpu().numpy()
        metrics[f"nll_{count}"] = regression_estimate(plain, sampled, torch.cat(estimates[count]).cpu().numpy()).mean
        metrics[f"nll_{count}_se"] = math.sqrt(from_plain + float(np.square(error / len(error)).sum()))
    return GroupResult(metrics)


@torch.no_grad()
def latent_use(subject: TrainedModel, examples: int) -> GroupResult:
    """What the decoder loses when z comes from another example, or from the prior."""
    blocks = list(subject.blocks(examples)) if subject.latent else []
    if sum(len(block.x) for block in blocks) < 2:
        return GroupResult(dict.fromkeys(("shuffle_gap", "prior_gap")))
    subject.ctx.block = 0
    model, generator = subject.ctx.model, subject.ctx.generator("use")
    z = coupled_samples([block.q for block in blocks], model.prior, USE_SAMPLES, generator)
    sizes = [len(block.x) for block in blocks]
    parts = zip(blocks, z.own.split(sizes), z.other.split(sizes), z.prior.split(sizes), strict=True)
    gaps = [distortion_gaps(model, block.x, own, other, prior, subject.chunk) for block, own, other, prior in parts]
    return GroupResult(
        {
            "shuffle_gap": torch.cat([gap.shuffle for gap in gaps]).mean().item(),
            "prior_gap": torch.cat([gap.prior for gap in gaps]).mean().item(),
        }
    )


@torch.no_grad()
def probe(subject: TrainedModel, examples: int) -> GroupResult:
    """How well labels can be read from posterior means, by a linear probe and from few labels."""
    labels = subject.data.labels
    if not {"train", "test"} <= labels.keys() or not subject.latent:
        return GroupResult({})
    ctx, data = subject.ctx, subject.data
    count = min(examples, len(labels["train"]))
    chosen = np.unique(np.linspace(0, len(labels["train"]) - 1, count).round().astype(np.int64))
    means = []
    for ctx.block, index in enumerate(torch.from_numpy(chosen).to(data.train.device).split(subject.batch_size)):
        x = data.batch(index, ctx.generator("probe"))
        means.append(subject.method.posterior(ctx, x, train=False).mean.cpu().numpy())
    train, test = np.concatenate(means), subject.basic.arrays["means"]
    examined = train, labels["train"][chosen], test, labels["test"][subject.basic.columns["index"]]
    found: dict[str, float | int | None] = {"probe": linear_probe(*examined)}
    found |= {f"probe_{labelled}": accuracy for labelled, accuracy in few_label_accuracy(*examined, FEW_LABELS).items()}
    return GroupResult(found | {"probe_chance": chance_accuracy(examined[1], examined[3])})


@torch.no_grad()
def ais(subject: TrainedModel, examples: int, chains: int, steps: int) -> GroupResult:
    """The NLL by annealed importance sampling, from the refined posterior on: what importance sampling missed of the
    true one, the moves in between find."""
    if not subject.latent:
        return GroupResult(dict.fromkeys(("nll_ais", "nll_ais_se")))
    places, nll, model = [], [], reparametrize_prior(subject.ctx.model)
    for block in subject.blocks(examples):
        start = refined_proposal(model, block.x, block.q, subject.ctx.generator("common"), subject.chunk).narrow
        generator = subject.ctx.generator("annealed")
        weights = ais_log_weights(model, block.x, generator, subject.chunk, chains, steps, start)
        nll.append(importance_weighted_nll(weights))
        places.append(block.places)
    plain, sampled, values = subject.basic.columns["nll"], np.concatenate(places), torch.cat(nll).cpu().numpy()
    return GroupResult(
        with_se("nll_ais", regression_estimate(plain, sampled, values)),
        {"nll_ais": scatter_to_full(values, sampled, len(plain))},
    )


class Mean(NamedTuple):
    mean: float
    standard_error: float  # over examples; NaN for one


def regression_estimate(plain: np.ndarray, sampled: np.ndarray, values: np.ndarray) -> Mean:
    """The mean of another NLL over all examples, of which only those at places ``sampled`` were measured: ``values``.

    The sample says how far the ``plain`` NLL of every example ``[N]`` is off on average. The two go together from
    example to example, so that this mean difference has far less noise than the mean of the sample. Without a plain
    NLL, of a posterior without density, the sample's mean stands for all.
    """
    if np.isnan(plain).all():
        plain = np.full_like(plain, values.mean())
    off = values - plain[sampled]
    mean = float(plain.mean() + off.mean())
    if len(off) < 2:
        return Mean(mean, math.nan)
    (variance, covariance), (_, of_off) = np.cov(plain[sampled], off)
    variance = plain.var(ddof=1) if len(plain) > 1 else variance
    squared = (variance + 2 * covariance) / len(plain) + of_off / len(off)
    return Mean(mean, math.sqrt(max(0.0, float(squared))))


def with_se(name: str, value: Mean) -> dict[str, float]:
    return {name: value.mean, f"{name}_se": value.standard_error}


def scatter_to_full(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Values of a sample in a column of ``count`` examples, NaN elsewhere."""
    column = np.full(count, math.nan)
    column[places] = values
    return column


GROUPS: dict[str, Callable[..., GroupResult]] = {
    "refined_iw": refined_iw,
    "convergence": convergence,
    "latent_use": latent_use,
    "probe": probe,
    "ais": ais,
}
