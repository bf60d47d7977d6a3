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
    table_order = 61
    display_params = ("target",)
    incompatible_with = {
        "schedule": "it anneals from 0, by definition",
        "kl_term": "it has a form of the KL term of its own",
    }
    vae_settings = "it starts from another encoder"

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
        return Phase("pretraining", self.config.share, selection_metric=None), Phase("main", 1 - self.config.share)

    def build(self, model, data):
        self.fresh = deepcopy([model.latent_to_decoder.state_dict(), model.decoder.state_dict()])
        return model

    def kl_loss(self, terms):
        return FreeBits(self.config.target)(terms.kl, terms.kl_dim)

    def loss(self, ctx, terms):
        return terms.rec.mean() if ctx.phase.name == "pretraining" else super().loss(ctx, terms)

    def on_phase_start(self, ctx):
        if ctx.phase.name == "main":
            for module, state in zip((ctx.model.latent_to_decoder, ctx.model.decoder), self.fresh, strict=True):
                module.load_state_dict(state)
