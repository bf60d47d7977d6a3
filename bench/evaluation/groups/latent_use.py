"""Use of z by the decoder: increase of the reconstruction loss with z of another example, or from the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.evaluation.registry import GroupResult, GroupSettings, Metric, MetricGroup

if TYPE_CHECKING:
    from bench.evaluation.trained_model import TrainedModel

SAMPLES = 4  # of z per example


@dataclass(frozen=True)
class Settings(GroupSettings):
    examples: int = 500  # evenly spaced among the evaluated test examples


def measure(trained: TrainedModel, settings: Settings) -> GroupResult:
    import torch

    from bench.evaluation.estimators.latent_usage import coupled_samples, distortion_gaps

    if not trained.has_latent:
        return GROUP.undefined()
    blocks = list(trained.blocks(settings.examples))
    if sum(len(block.x) for block in blocks) < 2:
        return GroupResult(dict.fromkeys(GROUP.metric_names, math.nan))
    trained.ctx.block = 0
    model, generator = trained.ctx.model, trained.ctx.generator("use")
    z = coupled_samples([block.q for block in blocks], model.prior, SAMPLES, generator)
    sizes = [len(block.x) for block in blocks]
    parts = zip(blocks, z.own.split(sizes), z.other.split(sizes), z.prior.split(sizes), strict=True)
    gaps = [distortion_gaps(model, block.x, own, other, prior, trained.chunk) for block, own, other, prior in parts]
    return GroupResult(
        {
            "shuffle_gap": torch.cat([gap.shuffle for gap in gaps]).mean().item(),
            "prior_gap": torch.cat([gap.prior for gap in gaps]).mean().item(),
        }
    )


GROUP = MetricGroup(
    summary="increase of the reconstruction loss with z of another example, or from the prior",
    settings=Settings,
    measure=measure,
    decodings=lambda settings: settings.examples * 3 * SAMPLES,
    panel="Use of z",
    table_order=3,
    default=True,
    metrics=(
        Metric("shuffle_gap", "shuffle", "increase of rec (nats) with z of another example", bias="unbiased"),
        Metric("prior_gap", "prior", "increase of rec (nats) with z drawn from the prior", bias="unbiased"),
    ),
)
