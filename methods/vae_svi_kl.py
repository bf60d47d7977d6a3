"""VAE+SVI+KL: as ``vae_svi``, but the encoder learns to hit where the refinement ends.

The decoder is trained on the ELBO at λ_K, the encoder on KL(q_0 ‖ q_K) with q_K held fixed. Kim et al.'s ablation.
"""

from .vae_svi import VAEWithSVI


class VAEWithSVIAndKL(VAEWithSVI):
    summary = "encoder taught to hit where SVI ends"
    table_order = 43
    incompatible_with = {"kl_term": "the KL to the prior trains neither its encoder nor its decoder"}

    def encoder_loss(self, ctx, terms):
        first, last = terms.extra["first"], terms.q
        apart = ((first.mean - last.mean).square() + first.logvar.exp()) * (-last.logvar).exp()
        return 0.5 * (apart - 1 + last.logvar - first.logvar).sum(-1).mean()
