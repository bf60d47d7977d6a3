"""NLL under a proposal that is refined in the same way for every method, and the inference gaps.

The plain NLL uses each method's own q as proposal, so it compares encoders along with decoders. Here a Gaussian is
refined per example, on a sample of the test set because of its cost; ``regression_estimate`` extends the result to
all evaluated examples. Gaps: Cremer et al., *Inference Suboptimality in Variational Autoencoders*, ICML 2018.
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
    examples: int = 100  # evenly spaced among the evaluated test examples
    steps: int = 100  # of refinement
    samples: int = 500  # of the refined proposal


def measure(trained: TrainedModel, settings: Settings) -> GroupResult:
    import numpy as np

    from bench.evaluation.estimators.likelihood import is_diagnostics
    from bench.evaluation.estimators.proposal import refined_log_weights
    from bench.evaluation.estimators.subsample import median, regression_estimate, scatter_to_full, with_se
    from bench.models.vae import reparametrize_prior

    plain, elbo = trained.basic.columns["iw_nll"], trained.basic.columns["elbo"]
    if not trained.has_latent:  # the plain NLL is exact
        exact = with_se("nll", regression_estimate(plain, np.arange(len(plain)), plain))
        return GroupResult(dict(GROUP.undefined().metrics) | exact, {"nll": plain})
    model = reparametrize_prior(trained.ctx.model)

    def refine(block: Block) -> dict[str, Tensor]:
        generator = trained.ctx.generator("common")
        refined = refined_log_weights(
            model, block.x, block.q, generator, trained.chunk, steps=settings.steps, draws=settings.samples
        )
        diagnostics = is_diagnostics(refined.log_weights)
        return {"elbo": refined.elbo.double(), "full": refined.full_covariance.double(), **diagnostics}

    sampled, values = trained.measure_sample(settings.examples, refine)
    amortisation, approximation = values["elbo"] - elbo[sampled], -values["iw_nll"] - values["elbo"]
    metrics = {
        **with_se("nll", regression_estimate(plain, sampled, values["iw_nll"])),
        "ess_refined": float(values["ess"].mean()),
        "pareto_k_refined": median(values["pareto_k"]),
        "elbo_refined": float(values["elbo"].mean()),
        "full_covariance": float(values["full"].mean()),
        "gap_amortisation": float(amortisation.mean()),
        "gap_approximation": float(approximation.mean()),
        "gap_inference": float((amortisation + approximation).mean()),
    }
    stored = {"nll": "iw_nll", "pareto_k_refined": "pareto_k", "elbo_refined": "elbo"}
    columns = {name: scatter_to_full(values[key], sampled, len(plain)) for name, key in stored.items()}
    return GroupResult(metrics, columns)


GROUP = MetricGroup(
    summary="NLL under a proposal refined in the same way for every method; amortisation and approximation gaps",
    settings=Settings,
    measure=measure,
    # A refinement step decodes four samples with gradients, which cost about three decodings each.
    decodings=lambda settings: settings.examples * (settings.samples + 12 * settings.steps),
    panel="Inference",
    table_order=1,
    default=True,
    metrics=(
        Metric(
            "nll",
            "NLL",
            "importance-weighted estimate, {samples} samples; its proposal is fitted to each example in {steps} steps, "
            "in the same way for all methods, so it compares decoders and not encoders; {unit}, {evaluated}, from its "
            "difference to IW-NLL on a fixed sample of {examples} of them",
            bias="upwards; decreases with more samples and a better refinement",
        ),
        Metric("nll_se", description="standard error of `nll` over examples"),
        Metric("ess_refined", "ESS (refined)", "effective sample size of NLL's weights, of {samples}", digits=1),
        Metric("pareto_k_refined", "Pareto k (refined)", "the same of NLL's weights"),
        Metric("elbo_refined", description="ELBO of the refined diagonal Gaussian, on the sample"),
        Metric("full_covariance", description="share of the sample whose proposal has a full covariance"),
        Metric("gap_amortisation", "amort. gap", "ELBO of the refined posterior − ELBO (Cremer et al., 2018)"),
        Metric(
            "gap_approximation",
            "approx. gap",
            "− NLL − ELBO of the refined posterior",
            bias="downwards; decreases with more samples",
        ),
        Metric("gap_inference", "inf. gap", "sum of both gaps, − NLL − ELBO, on a fixed sample of {examples} examples"),
    ),
)
