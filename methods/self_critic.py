"""Self critic: the posterior itself must tell which x a code came from.

L = E_q[-log p(x|z)] + KL + λ E_j[-log softmax_i(log q(z_j|x_i))_j], z_j ~ q(z|x_j) and i over the batch. log B minus
the critic's loss is a lower bound (InfoNCE) of the mutual information of q. Only the paper's abstract and a
re-implementation were at hand: λ = 1 is the latter's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.method import Method, check_ranges


class SelfCritic(Method):
    summary = "q(z|x) must tell which example a code came from"
    citation = "Menon et al., UAI 2022"
    table_order = 72
    vae_settings = {"lam": 0.0}

    @dataclass(frozen=True)
    class Config:
        lam: float = 1.0

        def __post_init__(self):
            check_ranges(self, not_negative="lam")

    def loss(self, ctx, terms):
        logits = terms.q.pairwise_log_prob(terms.z[:, 0])  # [B, B], of code j and example i
        right = torch.arange(len(logits), device=logits.device)
        return super().loss(ctx, terms) + self.config.lam * F.cross_entropy(logits, right).to(terms.rec.dtype)
