"""NLL by annealed importance sampling from the refined posterior (Neal, 2001; Wu et al., ICLR 2017).

Moves between the intermediate densities find modes of the true posterior that importance sampling misses. The most
accurate estimate of the NLL, and the most expensive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.evaluation.registry import GroupResult, GroupSettings, Metric, MetricGroup

if TYPE_CHECKING:
    from torch import Tensor

    from bench.evaluation.trained_model import Block, TrainedModel


@dataclass(frozen=True)
class Settings(GroupSettings):
    examples: int = 20  # evenly spaced among the evaluated test examples
    chains: int = 10
    steps: int = 100


def measure(trained: TrainedModel, settings: Settings) -> GroupResult:
    from bench.evaluation.estimators.ais import ais_log_weights
    from bench.evaluation.estimators.likelihood import importance_weighted_nll
    from bench.evaluation.estimators.proposal import refined_gaussian
    from bench.evaluation.estimators.subsample import regression_estimate, scatter_to_full, with_se
    from bench.models.vae import reparametrize_prior

    if not trained.has_latent:
        return GROUP.undefined()
    ctx, model, plain = trained.ctx, reparametrize_prior(trained.ctx.model), trained.basic.columns["iw_nll"]

    def block_nll(block: Block) -> dict[str, Tensor]:
        start = refined_gaussian(model, block.x, block.q, ctx.generator("common"), trained.chunk)
        options = trained.chunk, settings.chains, settings.steps, start
        return {"iw_nll": importance_weighted_nll(ais_log_weights(model, block.x, ctx.generator("annealed"), *options))}

    sampled, values = trained.measure_sample(settings.examples, block_nll)
    metrics = with_se("nll_ais", regression_estimate(plain, sampled, values["iw_nll"]))
    return GroupResult(metrics, {"nll_ais": scatter_to_full(values["iw_nll"], sampled, len(plain))})


GROUP = MetricGroup(
    summary="NLL by annealed importance sampling from the refined posterior: the most accurate, and the most expensive",
    settings=Settings,
    measure=measure,
    # Ten leapfrog steps per density, each decoded with gradients.
    decodings=lambda settings: settings.examples * settings.chains * settings.steps * 40,
    panel="Convergence of the NLL",
    table_order=5,
    metrics=(
        Metric(
            "nll_ais",
            "NLL (AIS)",
            "annealed importance sampling on {examples} test examples, extended to all of them as NLL is; {chains} "
            "chains of {steps} steps from the refined posterior",
            bias="upwards; decreases with more steps and chains",
        ),
        Metric("nll_ais_se", description="standard error of `nll_ais` over examples"),
    ),
)
