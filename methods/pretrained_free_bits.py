"""FBP: an encoder pre-trained as an autoencoder's, then a VAE with free bits and a fresh decoder.

Phase 1, ``share`` of the updates: L = E_q[-log p(x|z)]. Then the decoder goes back to its initial weights, the encoder
stays. Phase 2: L = E_q[-log p(x|z)] + β(t) E_x Σ_d max(target / D, KL_d(x)), β from 0 to 1 over the preset's ramp.

The authors train the autoencoder until its own early stop, and do not count it in the cost. Here both phases share one
budget, which makes methods comparable, and the encoder is that of the last update of phase 1.
"""

from copy import deepcopy
from dataclasses import dataclass

from bench.core.schedules import Linear
from bench.method import Method, Phase, check_ranges

from .parts.free_bits import FreeBits


class PretrainedFreeBits(Method):
    summary = "encoder of an autoencoder, then free bits with a fresh decoder (FBP)"
    citation = "Li et al., EMNLP 2019"
    family = "optimisation"
    order = 61
    shown = ("target",)
    refuses = {
        "schedule": "it anneals from 0, by definition",
        "rate": "it has a form of the KL term of its own",
    }
    neutral = "it starts from another encoder"

    @dataclass(frozen=True)
    class Config:
        target: float = 8.0  # nats
        share: float = 0.3  # of the updates, for the autoencoder

        def __post_init__(self):
            check_ranges(self, "share", "target")
            if self.share >= 1:
                raise ValueError(f"'share' leaves something for the VAE, so it is below 1, not {self.share}")

    def default_schedule(self):
        return Linear(start=0.0)

    def phases(self):
        return Phase("pretraining", self.config.share, judged_by=None), Phase("main", 1 - self.config.share)

    def build(self, model, data):
        self.fresh = deepcopy([model.to_decoder.state_dict(), model.decoder.state_dict()])
        return model

    def rate(self, terms):
        return FreeBits(self.config.target).of(terms.kl, terms.kl_dim)

    def loss(self, ctx, terms):
        return terms.rec.mean() if ctx.phase.name == "pretraining" else super().loss(ctx, terms)

    def on(self, event, ctx):
        if event == "phase_start" and ctx.phase.name == "main":
            for module, state in zip((ctx.model.to_decoder, ctx.model.decoder), self.fresh, strict=True):
                module.load_state_dict(state)
