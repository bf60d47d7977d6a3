"""The basic VAE.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z))                                  (Kingma & Welling, ICLR 2014)
Defaults:  –
Deviates:  –
"""

from bench.method import Method


class BasicVAE(Method):
    title = "VAE"
    summary = "the basic VAE"
    citation = "Kingma & Welling, ICLR 2014 (arXiv 1312.6114)"
    marker = "circle"
    table_order = 10
    suites = {"core": ["vae"], "paper": ["vae", "vae+anneal"], "lag": ["vae"], "controls": ["vae"]}
    baseline = True
