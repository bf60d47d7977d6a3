"""iVAE: posteriors without a density, drawn by a network from features and noise; the KL by its dual form.

z = G(h(x), ε), ε ~ N(0, I); KL(q ‖ p) = max_ν E_q ν(x, z) - E_p exp ν(x, z) + 1. Every step ν makes ``inner`` updates
of Adam, then encoder and decoder one on E_q[-log p(x|z)] + β KL. With ``aggregate`` ν sees z alone, and the KL is the
aggregate's, which leaves the mutual information free (iVAE_MI). The dual form is too low as long as ν is not at its
best, and the ELBO with it too high; below 0, which it is then too, the loss takes 0, the bound by ν = 0. Without a
density there is no importance-weighted NLL; the common proposal's needs none. The authors' step of ν is 1e-5, for some
10⁵ updates; the reduced presets have some 10³. For text alone: the dual form needs about exp KL codes, images have a KL
of tens of nats, and there ν ran away within 250 updates.
"""

from dataclasses import dataclass

import torch

from bench.method import ELBOTerms, Method, check_ranges
from bench.models.vae import fixed_statistics

from .parts.implicit import SAMPLES, ImplicitHead, network

DUAL = "by the dual form, too low where its network is not at its best"


class ImplicitVAE(Method):
    summary = "posteriors drawn by a network, their KL by its dual form (iVAE)"
    citation = "Fang et al., EMNLP 2019"
    family = "posterior"
    table_order = 86
    modalities = ("text",)
    incompatible_with = {"kl_term": "its KL is a dual estimate"}
    preset_overrides = {"quick": {"lr": 1e-4}, "small": {"lr": 1e-4}}
    footnotes = {
        "kl": DUAL,
        **dict.fromkeys(("elbo", "gap_amortisation", "gap_inference"), f"its KL is {DUAL}"),
        **dict.fromkeys(("nll", "mi"), "its posterior has no density"),
    }
    vae_settings = "its posterior is no Gaussian"

    @dataclass(frozen=True)
    class Config:
        inner: int = 5  # updates of ν in a step
        lr: float = 1e-5  # of ν
        hidden: int = 512
        aggregate: bool = False

        def __post_init__(self):
            check_ranges(self, "inner lr hidden")

    def expected_cost(self, train):
        return 2.0

    def build(self, model, data):
        features, hidden = model.head.linear.in_features, self.config.hidden
        model.head = ImplicitHead(features, model.latent_dim, hidden)
        seen = model.latent_dim + (0 if self.config.aggregate else features)
        model.aux["dual"] = network(seen, 1, hidden, depth=3)
        return model

    def param_groups(self, model):
        groups = super().param_groups(model)
        return groups | {"aux": {**groups["aux"], "optimiser": "adam", "lr": self.config.lr}}

    def posterior(self, ctx, x, train):
        q = ctx.model.encode(x)
        if not train:
            q.kl = self.dual(ctx, q, q.rsample(SAMPLES, ctx.generator("dual")))
        return q

    def dual(self, ctx, q, z):
        """E_q ν - E_p exp ν + 1 of each example: z ~ q ``[B, S, D]`` -> ``[B]``."""
        prior = ctx.model.prior.sample(z.shape[0] * z.shape[1], ctx.generator("prior"), z.device).view_as(z)
        return (self.critic(ctx, q, z) - self.critic(ctx, q, prior).exp()).mean(1) + 1

    def critic(self, ctx, q, z):
        beside = [] if self.config.aggregate else [q.h.detach().unsqueeze(1).expand(-1, z.shape[1], -1)]
        return ctx.model.aux["dual"](torch.cat([z, *beside], dim=-1)).squeeze(-1)

    def elbo_terms(self, ctx, x):
        q = self.posterior(ctx, x, train=True)
        z = q.rsample(1, ctx.generator())
        return ELBOTerms(x, q, z, -ctx.model.log_prob(x, z), self.dual(ctx, q, z), None)

    @torch.no_grad()
    def drawn(self, ctx, q):
        return q.rsample(1, ctx.generator())

    def kl_loss(self, terms):
        return super().kl_loss(terms).relu()  # ν = 0 is a bound too

    def step(self, ctx, x):
        with torch.no_grad(), fixed_statistics(ctx.model.features):
            q = ctx.model.encode(x)
        for _ in range(self.config.inner):
            ctx.update(lambda: -self.dual(ctx, q, self.drawn(ctx, q)).mean(), groups=["aux"])
        return ctx.update(lambda: self.objective(ctx, x), groups=["encoder", "decoder"])
