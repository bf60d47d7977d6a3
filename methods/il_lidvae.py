"""Inverse-Lipschitz LIDVAE: ``lidvae`` with maps that expand distances by a factor of at least L.

Loss:      the basic VAE's. (L/2) |z|² is added to each convex network, so that |T(z) - T(z')| ≥ L |z - z'|.
           (Kinoshita et al., ICML 2023)
Defaults:  L = 0.5, a choice of ours: the paper's values could not be verified. At the start the Jacobian of the convex
           network is near (1 - L) I, so that these maps are near an isometry too.
Deviates:  as ``lidvae``.
"""

from dataclasses import dataclass

from bench.method import Range

from .lidvae import IdentifiableVAE


class InverseLipschitzVAE(IdentifiableVAE):
    title = "IL-LIDVAE"
    summary = "decoder maps that expand distances by at least L"
    citation = "Kinoshita et al., ICML 2023 (arXiv 2304.12770)"
    marker = "half_right"
    table_order = 93
    revision = 3
    display_params = ("inverse_lipschitz",)
    space = {"inverse_lipschitz": Range(0.1, 2.0)}

    @dataclass(frozen=True)
    class Config(IdentifiableVAE.Config):
        inverse_lipschitz: float = 0.5
