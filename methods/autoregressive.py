"""Autoregressive model: the decoder without a latent, a PixelCNN on images and an LSTM language model on text.

Loss:      -log p(x), exact
Defaults:  –
Deviates:  –
Note:      A VAE must have a lower NLL than this model for its latent to be useful.
"""

from bench.method import Method


class Autoregressive(Method):
    summary = "the decoder alone, without z"
    citation = "van den Oord et al., ICML 2016 (PixelCNN)"
    family = "reference"
    table_order = 0
    suites = {"core": ["autoregressive"], "paper": ["autoregressive"], "controls": ["autoregressive"]}
    latent = False
    vae_settings = "it has no latent"
    incompatible_with = dict.fromkeys(("schedule", "kl_term"), "it has no latent, hence no KL")
    footnotes = dict.fromkeys(
        ("kl", "mi", "mi_batch", "kl_aggregate", "au", "au_kl", "collapsed"), "there is no latent"
    )
