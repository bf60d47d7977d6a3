"""NLL by annealed importance sampling from the refined posterior (Neal, 2001; Wu et al., ICLR 2017).

Moves between the intermediate densities find modes of the true posterior that importance sampling misses. The most
accurate estimate of the NLL, and the most expensive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.evaluation.registry import GroupResult, GroupSettings, Metric, MetricGroup

if TYPE_CHECKING:
    from bench.evaluation.trained_model import TrainedModel


@dataclass(frozen=True)
class Settings(GroupSettings):
    examples: int = 20  # evenly spaced among the evaluated test examples
    chains: int = 10
    steps: int = 100


def measure(trained: TrainedModel, settings: Settings) -> GroupResult:
    import numpy as np
    import torch

    from bench.evaluation.estimators.ais import ais_log_weights
    from bench.evaluation.estimators.likelihood import importance_weighted_nll
    from bench.evaluation.estimators.proposal import refined_proposal
    from bench.evaluation.estimators.subsample import regression_estimate, scatter_to_full, with_se
    from bench.models.vae import reparametrize_prior

    if not trained.has_latent:
        return GROUP.undefined()
    positions, nll, model, chunk = [], [], reparametrize_prior(trained.ctx.model), trained.chunk
    for block in trained.blocks(settings.examples):
        start = refined_proposal(model, block.x, block.q, trained.ctx.generator("common"), chunk).narrow
        generator = trained.ctx.generator("annealed")
        weights = ais_log_weights(model, block.x, generator, chunk, settings.chains, settings.steps, start)
        nll.append(importance_weighted_nll(weights))
        positions.append(block.positions)
    plain, sampled, values = trained.basic.columns["nll"], np.concatenate(positions), torch.cat(nll).cpu().numpy()
    return GroupResult(
        with_se("nll_ais", regression_estimate(plain, sampled, values)),
        {"nll_ais": scatter_to_full(values, sampled, len(plain))},
    )


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
