"""The decoder without a latent: PixelCNN on images, an LSTM language model on text.

L = -log p(x), exact. What a VAE must beat for its latent to have been worth having.
"""

from bench.method import Method

NO_LATENT = "there is no latent"


class Autoregressive(Method):
    summary = "the decoder alone, without z"
    citation = "van den Oord et al., ICML 2016 (PixelCNN)"
    family = "anchor"
    table_order = 0
    suites = {"core": ["autoregressive"], "paper": ["autoregressive"]}
    latent = False
    vae_settings = "there is no latent to switch off"
    incompatible_with = dict.fromkeys(("schedule", "kl_term"), "without a latent there is no KL")
    footnotes = {column: NO_LATENT for column in ("kl", "mi", "mi_batch", "kl_aggregate", "au", "au_kl", "collapsed")}
