"""TWR-VAE: timestep-wise regularisation, a KL after every word that the encoder reads.

Loss:      E_q[-log p(x|z)] + mean_t KL(q_t || p(z)), with q_t = q(z|x_1 … x_t) the head's Gaussian for the LSTM's state
           after word t, from <s> to </s>. z is drawn from the last one, q(z|x).          (Li et al., COLING 2020)
Defaults:  ``last`` = 1: all steps. 0.25, 0.5 and 0.75 are the authors' TWR-VAE of the last quarter, half and three
           quarters of the steps, 0 the last step alone, which is the basic VAE.
Deviates:  the mean is over each sentence's own steps; the authors divide the sum over a batch by its padded length.
           Their batching is not published with the code (ruizheliUOA/TWR-VAE:lang_model/encoder.py, main.py). Their
           variants that decode the mean or the sum of samples of all steps are left out.
Note:      As in the authors' code, weights are selected by this loss on validation, there with z = mean. The ELBO of
           the tables has the KL of q(z|x) itself. It is lower than minus the loss where that KL exceeds the mean over
           the steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.method import PAD, Choice, Context, ELBOTerms, Method, Phase, check_ranges


class TimestepWiseVAE(Method):
    title = "TWR-VAE"
    summary = "a KL after every word that the encoder reads"
    citation = "Li et al., COLING 2020 (arXiv 2011.01136)"
    marker = "star3"
    table_order = 75.5
    modalities = ("text",)
    models = ("lstm", "dilated_cnn")  # whose encoder's state after a word depends on no later one
    vae_settings = {"last": 0.0}
    space = {"last": Choice((0.25, 0.5, 0.75, 1.0))}

    @dataclass(frozen=True)
    class Config:
        last: float = 1.0  # fraction of the steps that have a KL, counted from the end

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="last", at_most_one="last")

    def phases(self) -> Sequence[Phase]:
        return (Phase(selection_metric="loss" if self.config.last else "elbo"),)

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        model, length = ctx.model, (x != PAD).sum(1)  # (B,)
        states = model.features.states(x)  # (B, T, H)
        q = model.head(states[torch.arange(len(x), device=x.device), length - 1])
        terms = ELBOTerms.from_samples(model, x, q, q.rsample(1, ctx.generator()))
        kl_dim = model.prior.kl_dim(model.head(states.flatten(0, 1)))  # (B·T, D)
        assert kl_dim is not None and terms.kl_dim is not None
        earlier = self.earlier_steps(length, x.shape[1])  # (B, T)
        total = terms.kl_dim + kl_dim.unflatten(0, x.shape).masked_fill(~earlier.unsqueeze(-1), 0).sum(1)  # (B, D)
        mean = total / (1 + earlier.sum(1, keepdim=True))
        return replace(terms, kl=mean.sum(-1), kl_dim=mean)

    def earlier_steps(self, length: Tensor, longest: int) -> Tensor:
        """Return which steps before the last one have a KL (B, longest), for sentences of length (B,)."""
        steps = torch.arange(longest, device=length.device)  # (T,)
        first = length - (self.config.last * length).round().clamp_min(1)  # (B,)
        return (steps >= first.unsqueeze(1)) & (steps < length.unsqueeze(1) - 1)
