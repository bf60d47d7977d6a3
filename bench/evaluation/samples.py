"""What a reader wants to see of a trained model: draws from the prior, reconstructions, and what lies between two."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.data.tensors import Data
from bench.data.text import TextData
from bench.method import Context, Method
from bench.models.decoding import beam, greedy
from bench.models.vae import VAE

INTERPOLATIONS = 4  # pairs of sentences between which z goes
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way


@torch.no_grad()
def qualitative_samples(
    method: Method, ctx: Context, data: Data, count: int
) -> tuple[dict[str, np.ndarray], dict | None]:
    """Arrays of images, or texts, made from the first ``count`` test examples."""
    index, (x,) = data.blocks("test", count, count)
    x = x[torch.from_numpy(index).argsort().to(x.device)]  # as they stand in the set
    if isinstance(data, TextData):
        return {}, texts(method, ctx, data, x)
    return pictures(method, ctx, x), None


def pictures(method: Method, ctx: Context, x: Tensor) -> dict[str, np.ndarray]:
    """Originals, x ~ p(x|z) at the posterior means, and x ~ p(x|z) at draws from the prior: uint8 ``[P, H, W]``."""
    model, generator = ctx.model, ctx.generator("pictures")
    drawn = {"samples": model.sample(model.prior.sample(len(x), generator, x.device), generator)}
    if model.latent_dim:
        drawn["reconstructions"] = model.sample(method.posterior(ctx, x, train=False).mean, generator)
    drawn["originals"] = x
    return {name: images.squeeze(1).to(torch.uint8).cpu().numpy() for name, images in drawn.items()}


def texts(method: Method, ctx: Context, data: TextData, x: Tensor) -> dict[str, list]:
    """Sentences x ~ p(x|z) at draws from the prior; and, where there is a latent, sentences decoded greedily, by beam
    search and at random from posterior means, and from points between pairs of them."""
    model, generator = ctx.model, ctx.generator("pictures")
    drawn = model.sample(model.prior.sample(len(x), generator, x.device), generator)
    shown: dict[str, list] = {"samples": data.sentences(drawn)}
    if not model.latent_dim:
        return shown
    means = method.posterior(ctx, x, train=False).mean
    originals = data.sentences(x)
    decoded = decode(model, data, means, generator)
    shown["reconstructions"] = [{"original": one} | other for one, other in zip(originals, decoded, strict=True)]
    shown["interpolations"] = []
    for first, second in list(zip(range(len(x)), range(1, len(x)), strict=False))[: 2 * INTERPOLATIONS : 2]:
        between = torch.stack([torch.lerp(means[first], means[second], share) for share in SHARES])
        said = decode(model, data, between, generator)
        steps = [{"share": share, **step} for share, step in zip(SHARES, said, strict=True)]
        shown["interpolations"].append({"from": originals[first], "to": originals[second], "steps": steps})
    return shown


def decode(model: VAE, data: TextData, z: Tensor, generator: torch.Generator) -> list[dict[str, str]]:
    """What z ``[N, D]`` says: the most probable word at every step, the best of a beam, and one draw."""
    code = model.latent_to_decoder(z)
    ways = {
        "greedy": greedy(model.decoder, code),
        "beam": beam(model.decoder, code),
        "ancestral": model.sample(z, generator),
    }
    said = {way: data.sentences(rows) for way, rows in ways.items()}
    return [{way: sentences[i] for way, sentences in said.items()} for i in range(len(z))]
