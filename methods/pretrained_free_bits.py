"""FBP: an encoder pre-trained in an autoencoder, then free bits with a re-initialised decoder.

Loss:      phase 1, ``share`` of the updates: E_q[-log p(x|z)]. The decoder then returns to its initial weights.
           Phase 2: E_q[-log p(x|z)] + β(t) E_x Σ_d max(target / D, KL_d(x)), β from 0 to 1 over the preset's ramp.
           (Li et al., EMNLP 2019)
Defaults:  target 8 nats, as the authors'; share 0.3; log-variances of at least -6.
Deviates:  both phases share one budget, to be comparable with other methods, and the encoder is that of the last update
           of phase 1. The authors train the autoencoder until early stopping and do not count its cost. The floor is
           ours: nothing in phase 1 keeps the variance above 0.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.method import VAE, Context, DataInfo, ELBOTerms, Linear, Method, Phase, Range, Schedule, check_ranges

from .parts.free_bits import FreeBits
from .parts.heads import FlooredHead


class PretrainedFreeBits(Method):
    title = "FBP"
    summary = "encoder of an autoencoder, then free bits with a new decoder (FBP)"
    citation = "Li et al., EMNLP 2019 (arXiv 1909.00868)"
    family = "optimisation"
    marker = "star6"
    table_order = 61
    revision = 2
    display_params = ("target",)
    incompatible_with = {
        "schedule": "it anneals from 0 by definition",
        "kl_term": "it has its own KL term",
    }
    vae_settings = "its encoder is always pre-trained"
    space = {"target": Range(1.0, 32.0), "share": Range(0.1, 0.5)}

    @dataclass(frozen=True)
    class Config:
        target: float = 8.0  # nats
        share: float = 0.3  # fraction of the updates for the autoencoder
        floor: float = -6.0  # of the log-variance

        def __post_init__(self) -> None:
            check_ranges(self, "share", "target", below_one="share")

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.kl_term = FreeBits(self.config.target)

    def default_schedule(self) -> Schedule:
        return Linear(start=0.0)

    def phases(self) -> Sequence[Phase]:
        return Phase("pretraining", self.config.share, selection_metric=None), Phase("main", 1 - self.config.share)

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.head = FlooredHead(model.head, self.config.floor)
        self.initial = deepcopy([model.latent_to_decoder.state_dict(), model.decoder.state_dict()])
        return model

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        return terms.rec.mean() if ctx.phase.name == "pretraining" else super().loss(ctx, terms)

    def on_phase_start(self, ctx: Context) -> None:
        if ctx.phase.name == "main":
            for module, state in zip((ctx.model.latent_to_decoder, ctx.model.decoder), self.initial, strict=True):
                module.load_state_dict(state)
