"""Bag-of-words loss: an auxiliary network predicts the words of a sentence from z, without their order.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) + weight · E_q[-Σ_t log softmax(f(z))[x_t]]    (Zhao et al., ACL 2017)
           over all words and </s>, with an MLP f of one hidden layer.
Defaults:  weight 1, 400 hidden units.
Deviates:  the authors' code raises the weight of the KL from 0 over 10,000 batches
           (snakeztc/NeuralDialog-CVAE:models/cvae.py): ``bag_of_words+anneal``.
Note:      f is not part of p(x): no metric includes it.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from bench.method import PAD, START, VAE, Context, DataInfo, ELBOTerms, Method, Range, TrainConfig, check_ranges

from .parts.auxiliary import mlp


class BagOfWords(Method):
    title = "Bag of words"
    summary = "z predicts a sentence's words without their order"
    citation = "Zhao et al., ACL 2017 (arXiv 1703.10960)"
    marker = "column"
    table_order = 74
    modalities = ("text",)
    vae_settings = {"weight": 0.0}
    space = {"weight": Range(0.1, 10.0)}

    @dataclass(frozen=True)
    class Config:
        weight: float = 1.0
        hidden: int = 400

        def __post_init__(self) -> None:
            check_ranges(self, "hidden", "weight")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1.3

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if self.config.weight:
            model.aux["bag"] = mlp((model.latent_dim, self.config.hidden, data.vocabulary), nn.Tanh())
        return model

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        loss = super().loss(ctx, terms)
        if not self.config.weight:
            return loss
        log_probs = ctx.model.aux["bag"](terms.z).log_softmax(-1)  # (B, S, V)
        words = terms.x.unsqueeze(1).expand(-1, terms.z.shape[1], -1)  # (B, S, T)
        nats = -log_probs.gather(2, words).masked_fill((words == PAD) | (words == START), 0).sum(-1)  # (B, S)
        return loss + self.config.weight * nats.mean()
