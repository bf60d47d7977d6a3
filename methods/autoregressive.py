"""Autoregressive model: the decoder without a latent, a PixelCNN on images and an LSTM language model on text.

Loss:      -log p(x), exact
Defaults:  –
Deviates:  –
Note:      A VAE must have a lower NLL than this model for its latent to be useful. It is the decoder of a VAE that
           ignores z. On images it keeps the bias of the projection of z as learned maps, which tell it the position of
           a pixel, as jxhe/vae-lagging-encoder:pixel_cnn.py does, where the VAE's decoder is trained at z = 0. On text
           z enters without a bias, so nothing is left of it: the LSTM starts from zeros. A decoder that is not
           autoregressive leaves independent values: the model's best fit without z.
"""

from bench.method import Method


class Autoregressive(Method):
    title = "Autoregressive decoder"
    summary = "the decoder alone, without z"
    citation = "van den Oord et al., ICML 2016 (PixelCNN, arXiv 1601.06759)"
    family = "reference"
    marker = "triangle_left"
    table_order = 0
    suites = {"core": ["autoregressive"], "paper": ["autoregressive"], "controls": ["autoregressive"]}
    revision = 2
    latent = False
    vae_settings = "it has no latent"
    incompatible_with = dict.fromkeys(("schedule", "kl_term"), "it has no latent, hence no KL")
    footnotes = dict.fromkeys(
        ("kl", "mi", "mi_batch", "kl_aggregate", "au", "au_kl", "collapsed"), "there is no latent"
    )
