"""Self critic: the densities of the posteriors at a code are trained to identify its example.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) + λ E_j[-log softmax_i(log q(z_j|x_i))_j], z_j ~ q(z|x_j), i over the
           batch. log B minus the last term is a lower bound (InfoNCE) on the mutual information under q.
           (Menon et al., UAI 2022)
Defaults:  λ = 20, that of abhijithasokan/forget-me-not-vae for images and generated data (40 for text): run_exps/,
           where LAMBDA becomes the weight of the critic. 5 in the reduced presets, whose images have a quarter of the
           pixels and whose documents an eighth of the words, for a similar share of the loss.
Deviates:  known from the paper's abstract and that re-implementation. Weights are selected by this loss on validation,
           as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.method import Context, ELBOTerms, Method, Phase, Range, check_ranges


class SelfCritic(Method):
    title = "Self critic"
    summary = "q(z|x) must identify the example a code comes from"
    citation = "Menon et al., UAI 2022 (arXiv 2207.09535)"
    marker = "half_up"
    table_order = 72
    revision = 2
    preset_overrides = {"quick": {"lam": 5.0}, "small": {"lam": 5.0}}
    vae_settings = {"lam": 0.0}
    space = {"lam": Range(1.0, 100.0)}

    @dataclass(frozen=True)
    class Config:
        lam: float = 20.0

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="lam")

    def phases(self) -> Sequence[Phase]:
        return (Phase(selection_metric="loss" if self.config.lam else "elbo"),)

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        logits = terms.q.pairwise_log_prob(terms.z[:, 0])  # (B, B): code j, example i
        target = torch.arange(len(logits), device=logits.device)
        return super().loss(ctx, terms) + self.config.lam * F.cross_entropy(logits, target).to(terms.rec.dtype)
