"""Inverse-Lipschitz LIDVAE: ``lidvae`` whose maps spread distances by a factor of at least L.

Each convex network has (L/2) |z|² added, so that |T(z) - T(z')| ≥ L |z - z'|: how much the decoder can tell z apart is
bounded from below, not only above zero. Values of L from 0.3 to 0.5 were found in a public re-implementation; the
paper's could not be verified.
"""

from dataclasses import dataclass

from .lidvae import IdentifiableVAE


class InverseLipschitzVAE(IdentifiableVAE):
    summary = "decoder maps that spread z by a factor of at least L"
    citation = "Kinoshita et al., ICML 2023"
    table_order = 93
    display_params = ("inverse_lipschitz",)

    @dataclass(frozen=True)
    class Config(IdentifiableVAE.Config):
        inverse_lipschitz: float = 0.5
