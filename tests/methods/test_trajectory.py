"""Trajectories of training: every weight after ten updates, against a plain loop in float64 written from the papers.

The loop shares the networks, the batches and the noise with the harness, and nothing else: likelihood, KL, gradients,
clipping, optimisers, the inner loop of aggressive training and SVI through an unrolled graph are written out here.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F

from bench.core.hashing import derive_seed
from bench.data.dataset import PAD
from bench.training.batches import Batches
from tests.conftest import TEXT_TOY, TOY, planner, trainers

UPDATES, CLIP, BATCH = 10, 0.5, TOY.train.batch_size
INNER, STEPS, STEP_SIZE, MOMENTUM, STEP_CLIP = 31, 3, 0.03, 0.5, 2.0
EXPRESSIONS = {
    "vae": "vae",
    "aggressive": f"aggressive(max_inner={INNER})",
    # Its settings are those for the mean loss of a batch.
    "sa_vae": f"sa_vae(steps={STEPS},lr={STEP_SIZE * BATCH},momentum={MOMENTUM},clip={STEP_CLIP / math.sqrt(BATCH)})",
    "autoregressive": "autoregressive",
}
WINDOW = {"image": 10, "text": 15}
ADAM = {"lr": 1e-3, "decays": (0.9, 0.999), "eps": 1e-8}  # Kingma & Ba, ICLR 2015


@dataclass
class PlainLoop:
    """Training of a model by the published algorithms, given its batches and noise."""

    model: torch.nn.Module
    text: bool
    noise: dict  # (kind of update, purpose) -> function of number and shape
    moments: dict = field(default_factory=dict)

    def nll(self, x, z):
        """Return -log p(x|z) (B,) for z (B, D)."""
        decoder, code = self.model.decoder, self.model.latent_to_decoder(z)
        if not self.text:
            logits = decoder.logits(code, decoder.image_projection(x))
            return -(x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)).sum((1, 2, 3))
        states, _ = decoder.states(x[:, :-1], code, decoder.start(code))
        log_probs = (states @ decoder.output.weight.T).log_softmax(-1).gather(2, x[:, 1:, None])[:, :, 0]
        return -(log_probs * (x[:, 1:] != PAD)).sum(1)

    def negative_elbo(self, x, mean, logvar, noise):
        """Return the loss of each example (B,) for noise (B, D)."""
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1)
        return self.nll(x, mean + (logvar / 2).exp() * noise) + kl

    def encode(self, x):
        q = self.model.encode(x)
        return q.mean, q.logvar

    def loss(self, x, kind, number, refined=False):
        mean, logvar = self.encode(x)
        if refined:
            mean, logvar = self.svi(x, mean, logvar, self.noise(kind, "refine", number, (STEPS, *mean.shape)))
        noise = self.noise(kind, "noise", number, (len(x), 1, mean.shape[1]))[:, 0]
        return self.negative_elbo(x, mean, logvar, noise).mean()

    def svi(self, x, mean, logvar, noise):
        """Kim et al. (2018), Algorithm 1: gradient steps with momentum on the posterior's parameters."""
        velocity = [0, 0]
        for step in range(STEPS):
            loss = self.negative_elbo(x, mean, logvar, noise[step]).sum()
            gradients = torch.autograd.grad(loss, [mean, logvar], create_graph=True)
            clipped = [g * (STEP_CLIP / g.norm(dim=1, keepdim=True)).clamp_max(1) for g in gradients]
            velocity = [MOMENTUM * v + g for v, g in zip(velocity, clipped, strict=True)]
            mean, logvar = (p - STEP_SIZE * v for p, v in zip((mean, logvar), velocity, strict=True))
        return mean, logvar

    def update(self, loss, prefixes):
        """Take one step of the parameters with these prefixes; clip by the norm over all parameters."""
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters)
        norm = sum(g.square().sum() for g in gradients).sqrt()
        with torch.no_grad():
            for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
                if name.startswith(prefixes):
                    parameter -= self.step(name, gradient * (CLIP / norm).clamp_max(1))

    def step(self, name, gradient):
        """SGD with learning rate 1 on text, Adam on images."""
        if self.text:
            return gradient
        count, first, second = self.moments.get(name, (0, 0, 0))
        a, b = ADAM["decays"]
        count, first, second = count + 1, a * first + (1 - a) * gradient, b * second + (1 - b) * gradient**2
        self.moments[name] = count, first, second
        return ADAM["lr"] * (first / (1 - a**count)) / ((second / (1 - b**count)).sqrt() + ADAM["eps"])

    def fit_encoder(self, x, random_batch, counter):
        """He et al. (2019), Algorithm 1, lines 5-9; return the updated counter of encoder updates."""
        previous, total, units = float("inf"), 0.0, 0
        window = WINDOW["text" if self.text else "image"]
        for inner in range(1, INNER + 1):
            loss = self.loss(x, "extra", counter)
            self.update(loss, ("features", "head"))
            counter += 1
            total += loss.item() * len(x)
            units += int((x[:, 1:] != PAD).sum()) if self.text else len(x)
            if inner % window == 0:
                if total / units > previous:
                    break
                previous, total, units = total / units, 0.0, 0
            if inner < INNER:
                x = random_batch()
        return counter


@pytest.fixture(params=["image", "text"])
def setting(request, prepared, text_prepared):
    """Modality, data and preset, without dropout."""
    if request.param == "image":
        return "image", prepared, replace(TOY, train=replace(TOY.train, clip=CLIP, extra_updates_until=None))
    train = replace(TEXT_TOY.train, clip=CLIP, extra_updates_until=None)
    return "text", text_prepared, replace(TEXT_TOY, model=replace(TEXT_TOY.model, dropout=0.0), train=train)


@pytest.mark.parametrize("method", EXPRESSIONS)
def test_weights_after_ten_updates_equal_a_plain_loop(method, setting, tmp_path, monkeypatch):
    modality, data, preset = setting
    train = replace(preset.train, epochs=1, epoch_updates=UPDATES)
    batch = Batches.__getitem__
    monkeypatch.setattr(
        Batches, "__getitem__", lambda self, n: batch(self, n).double() if modality == "image" else batch(self, n)
    )
    run = trainers(planner(data, preset, tmp_path / "plan"), data, preset)(EXPRESSIONS[method], tmp_path, train)
    run.model.double().train()

    def noise(kind, purpose, number, shape):
        generator = torch.Generator().manual_seed(derive_seed(run.seed, purpose, kind, number))
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    plain = PlainLoop(deepcopy(run.model), modality == "text", noise)
    outer, drawn = (Batches(run.data, train, run.seed, purpose) for purpose in ("outer", "drawn"))
    inner_batches = iter(drawn[n] for n in range(UPDATES * INNER))
    encoder_updates = 0
    for number in range(UPDATES):
        x, prefixes = outer[number], ("features", "head", "latent_to_decoder", "decoder")
        if method == "aggressive":
            encoder_updates = plain.fit_encoder(x, lambda: next(inner_batches), encoder_updates)
            prefixes = ("latent_to_decoder", "decoder")
        plain.update(plain.loss(x, "step", number, refined=method == "sa_vae"), prefixes)

    run.start_phase(0)
    for _ in range(UPDATES):
        run.train_step()
    assert run.ctx.encoder_updates == encoder_updates
    assert encoder_updates < UPDATES * INNER, "the windows never ended an inner loop"
    for (name, weight), expected in zip(run.model.named_parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
