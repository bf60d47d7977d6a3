"""Bag-of-words loss: beside the decoder, a network without word order must tell the sentence's words from z.

L = E_q[-log p(x|z)] + KL + weight · E_q[-Σ_t log softmax(f(z))[x_t]] over all words and </s>; f is an MLP of one hidden
layer. It is no part of p(x), so no metric contains it.
"""

from dataclasses import dataclass

from torch import nn

from bench.data.dataset import PAD, START
from bench.method import Method, check_ranges


class BagOfWords(Method):
    summary = "z must tell a sentence's words without their order"
    citation = "Zhao et al., ACL 2017"
    table_order = 74
    modalities = ("text",)
    vae_settings = {"weight": 0.0}

    @dataclass(frozen=True)
    class Config:
        weight: float = 1.0
        hidden: int = 400

        def __post_init__(self):
            check_ranges(self, "hidden", "weight")

    def build(self, model, data):
        if self.config.weight:
            hidden = self.config.hidden
            layers = nn.Linear(model.latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, data.vocabulary)
            model.aux["bag"] = nn.Sequential(*layers)
        return model

    def loss(self, ctx, terms):
        loss = super().loss(ctx, terms)
        if not self.config.weight:
            return loss
        scores = ctx.model.aux["bag"](terms.z).log_softmax(-1)  # [B, S, V]
        words = terms.x.unsqueeze(1).expand(-1, terms.z.shape[1], -1)
        nats = -scores.gather(2, words).masked_fill((words == PAD) | (words == START), 0).sum(-1)
        return loss + self.config.weight * nats.mean()
