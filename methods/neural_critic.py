"""Neural critic: two networks are trained to match the codes of a batch with their examples.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) - λ I, with I = log B - ½ (C_rows + C_columns): the cross-entropies of
           the (B, B) logits s cos(f(z_j), g(x_i)) with label i = j. VAE and critic minimise it together. I is a lower
           bound (InfoNCE) on the mutual information under q.                               (Menon et al., UAI 2022)
Defaults:  λ = 20, and 5 in the reduced presets, as ``self_critic``. f has one hidden layer, g is a copy of the
           encoder's network with one hidden layer more; 256 hidden units, 64 outputs. s = exp(τ) is learned and starts
           at 1 / 0.07, as in CLIP. Adam with learning rate 1e-3 in every preset.
Deviates:  the authors' code was not found. The form is that of abhijithasokan/forget-me-not-vae:
           forget_me_not/models/vae_base.py, where s is τ itself, 2.66 at the start; sizes and optimiser are ours.
           Weights are selected by this loss on validation, as there.
Note:      The critic is not part of p(x): no metric includes it, but the cost does.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, ELBOTerms, Phase, Range, TrainConfig, check_ranges

from .parts.auxiliary import AuxiliaryAdam, mlp


class Critic(nn.Module):
    """Codes (B, D) and examples (B, …) -> logits (B, B) that code j belongs to example i."""

    def __init__(self, features: nn.Module, feature_dim: int, latent_dim: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.features = features
        self.x_layers, self.z_layers = (
            mlp((inputs, hidden, outputs), nn.ReLU()) for inputs in (feature_dim, latent_dim)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        codes, examples = self.z_layers(z), self.x_layers(self.features(x))  # (B, outputs)
        return self.log_scale.exp() * F.normalize(codes, dim=1) @ F.normalize(examples, dim=1).T

    def bound(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the InfoNCE bound on the mutual information in nats, a scalar: the mean of both directions."""
        logits = self(z, x)
        label = torch.arange(len(logits), device=logits.device)
        return math.log(len(z)) - 0.5 * (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label))


class NeuralCritic(AuxiliaryAdam):
    title = "Neural critic"
    summary = "a critic is trained to match codes with their examples"
    citation = "Menon et al., UAI 2022 (arXiv 2207.09535)"
    marker = "half_down"
    table_order = 72.5
    revision = 2
    preset_overrides = {"quick": {"lam": 5.0}, "small": {"lam": 5.0}}
    vae_settings = {"lam": 0.0}
    space = {"lam": Range(1.0, 100.0)}

    @dataclass(frozen=True)
    class Config:
        lam: float = 20.0
        hidden: int = 256
        outputs: int = 64
        lr: float = 1e-3  # of the critic

        def __post_init__(self) -> None:
            check_ranges(self, "hidden outputs lr", "lam")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1.6 if data.modality == "text" else 1.3

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if self.config.lam:
            features, sizes = deepcopy(model.features), (self.config.hidden, self.config.outputs)
            model.aux["critic"] = Critic(features, model.head.linear.in_features, model.latent_dim, *sizes)
        return model

    def phases(self) -> Sequence[Phase]:
        return (Phase(selection_metric="loss" if self.config.lam else "elbo"),)

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        loss = super().loss(ctx, terms)
        if not self.config.lam:
            return loss
        return loss - self.config.lam * ctx.model.aux["critic"].bound(terms.z[:, 0], terms.x)
