"""Qualitative samples of a trained model: prior samples, reconstructions, interpolations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.data.tensors import Data
from bench.data.text import TextData
from bench.data.vector import VectorData
from bench.evaluation.record import DecodedText, Interpolation, InterpolationStep, Reconstruction, SampleTexts
from bench.method import Context, Method
from bench.models.decoding import beam, greedy
from bench.models.vae import VAE

NUM_INTERPOLATIONS = 4  # pairs of sentences
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way from one posterior mean to the other


@torch.no_grad()
def qualitative_samples(
    method: Method, ctx: Context, data: Data, count: int
) -> tuple[dict[str, np.ndarray], SampleTexts | None]:
    """Return arrays of images, or texts, from the first ``count`` test examples and as many prior samples.

    There are none of vectors.
    """
    if isinstance(data, VectorData):
        return {}, None
    index, (x,) = data.blocks("test", count, count)
    x = x[torch.from_numpy(index).argsort().to(x.device)]  # in the order of the test set
    if isinstance(data, TextData):
        return {}, text_samples(method, ctx, data, x)
    return image_samples(method, ctx, x), None


def image_samples(method: Method, ctx: Context, x: Tensor) -> dict[str, np.ndarray]:
    """Return x, and draws from p(x|z) at the posterior means and at prior samples.

    uint8 ``[P, H, W]`` each, in colour ``[P, 3, H, W]``; binary pixels are 0 or 1.
    """
    model, generator = ctx.model, ctx.generator("pictures")
    images = {"samples": model.sample(model.prior.sample(len(x), generator, x.device), generator)}
    if model.latent_dim:
        images["reconstructions"] = model.sample(method.posterior(ctx, x, train=False).mean, generator)
    images["originals"] = x
    scale = 255 if ctx.data.values == "intensity" else 1
    return {
        name: (scale * values.clamp(0, 1)).round().squeeze(1).to(torch.uint8).cpu().numpy()
        for name, values in images.items()
    }


def text_samples(method: Method, ctx: Context, data: TextData, x: Tensor) -> SampleTexts:
    """Return sentences x ~ p(x|z) at prior samples and, with a latent, sentences decoded from posterior means and from
    points on the lines between pairs of them. x: word ids ``[P, T]``."""
    model, generator = ctx.model, ctx.generator("pictures")
    prior_samples = model.sample(model.prior.sample(len(x), generator, x.device), generator)
    samples = data.sentences(prior_samples)
    if not model.latent_dim:
        return SampleTexts(samples=samples)
    means = method.posterior(ctx, x, train=False).mean  # (P, D)
    originals = data.sentences(x)
    decoded = decode(model, data, means, generator)
    reconstructions = [
        Reconstruction(original=original, **dict(text)) for original, text in zip(originals, decoded, strict=True)
    ]
    interpolations = []
    for first in range(0, min(2 * NUM_INTERPOLATIONS, len(x) - 1), 2):
        line = torch.stack([torch.lerp(means[first], means[first + 1], share) for share in SHARES])
        texts = decode(model, data, line, generator)
        steps = [InterpolationStep(share=share, **dict(text)) for share, text in zip(SHARES, texts, strict=True)]
        interpolations.append(Interpolation(start=originals[first], end=originals[first + 1], steps=steps))
    return SampleTexts(samples=samples, reconstructions=reconstructions, interpolations=interpolations)


def decode(model: VAE, data: TextData, z: Tensor, generator: torch.Generator) -> list[DecodedText]:
    """Decode z ``[N, D]`` greedily, by beam search, and by sampling."""
    code = model.latent_to_decoder(z)
    texts = {
        "greedy": data.sentences(greedy(model.decoder, code)),
        "beam": data.sentences(beam(model.decoder, code)),
        "ancestral": data.sentences(model.sample(z, generator)),
    }
    return [DecodedText(**{name: sentences[i] for name, sentences in texts.items()}) for i in range(len(z))]
