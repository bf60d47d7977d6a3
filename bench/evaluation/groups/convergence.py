"""The plain importance-weighted NLL as a function of the number of samples.

If the estimate still decreases from 500 to 5,000 samples, it has not converged to the NLL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.evaluation.registry import GroupResult, GroupSettings, Metric, MetricGroup

if TYPE_CHECKING:
    from torch import Tensor

    from bench.evaluation.trained_model import Block, TrainedModel

SAMPLE_COUNTS = (50, 500, 5000)


@dataclass(frozen=True)
class Settings(GroupSettings):
    examples: int = 100  # evenly spaced among the evaluated test examples


def measure(trained: TrainedModel, settings: Settings) -> GroupResult:
    import numpy as np
    import torch

    from bench.evaluation.estimators.likelihood import effective_sample_size, nested_nll
    from bench.evaluation.estimators.subsample import regression_estimate
    from bench.evaluation.metrics import log_weights

    plain = trained.basic.columns["iw_nll"]
    if not trained.has_latent or np.isnan(plain).all():  # q has no density
        return GROUP.undefined()

    def estimates(block: Block) -> dict[str, Tensor]:
        z = block.q.rsample(max(SAMPLE_COUNTS), trained.ctx.generator("convergence"))  # (B, S, D)
        weights = log_weights(trained.ctx.model, block.x, block.q, z, trained.chunk)  # (B, S)
        nested = {
            f"iw_nll_{count}": torch.stack(nested_nll(weights, count), dim=1) for count in SAMPLE_COUNTS
        }  # (B, 2)
        return {"ess": effective_sample_size(weights) / weights.shape[1], **nested}

    sampled, values = trained.measure_sample(settings.examples, estimates)
    # Weight of each plain estimate in the regression estimate: 1/N, less 1/M for the examples of the sample.
    weight = np.full(len(plain), 1 / len(plain))
    weight[sampled] -= 1 / len(sampled)
    plain_variance = float(np.nansum(np.square(weight * trained.basic.columns["iw_nll_mc_se"])))
    metrics: dict[str, float | int | None] = {}
    for count in SAMPLE_COUNTS:
        nll, error = values[f"iw_nll_{count}"].T
        metrics[f"iw_nll_{count}"] = regression_estimate(plain, sampled, nll).mean
        metrics[f"iw_nll_{count}_se"] = math.sqrt(plain_variance + float(np.square(error / len(error)).sum()))
    return GroupResult(metrics | {"ess_5000": float(values["ess"].mean())})


GROUP = MetricGroup(
    summary="IW-NLL with 50, 500 and 5,000 samples",
    settings=Settings,
    measure=measure,
    decodings=lambda settings: settings.examples * max(SAMPLE_COUNTS),
    panel="Convergence of the NLL",
    table_order=2,
    default=True,
    metrics=(
        *(
            metric
            for count in SAMPLE_COUNTS
            for metric in (
                Metric(
                    f"iw_nll_{count}",
                    f"IW-NLL {count:,}",
                    f"IW-NLL on {{examples}} test examples, extended to all of them as NLL is, with {count:,} samples",
                    bias="upwards; decreases with more samples",
                ),
                Metric(f"iw_nll_{count}_se", description=f"Monte-Carlo standard error of `iw_nll_{count}`"),
            )
        ),
        Metric("ess_5000", "ESS/5,000", "effective sample size over the number of samples, at 5,000", digits=3),
    ),
)
