"""SA-VAE in the naive formulation: every refinement step takes the gradients of all parameters, used or not.

The scheme is that of ``methods.parts.refinement``: clipped per example, with momentum, dropout and BatchNorm averages
aside. Its reverse pass goes back through the steps one by one, by automatic differentiation of a step made again
(``differences=None``), or by the difference of two full gradients, as the reference has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models.distributions import Gaussian
from bench.models.vae import VAE, fixed_statistics
from tests.perf.naive import NaiveTraining


class NaiveRefinement(NaiveTraining):
    """``differences`` is the length of the step of finite differences, over all examples, in units of λ."""

    def __init__(
        self,
        model: VAE,
        optimiser: str,
        lr: float,
        steps: int,
        step_size: float = 1 / 32,
        momentum: float = 0.5,
        clip: float = 28.0,
        differences: float | None = None,
    ):
        super().__init__(model, optimiser, lr)
        self.steps, self.step_size, self.momentum, self.refine_clip = steps, step_size, momentum, clip
        self.differences = differences
        self.parameters = [*model.parameters()]

    def backward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """``noise`` ``[steps + 1, B, D]``: that of the refinement, then of the final sample."""
        q = self.model.encode(x)
        start = torch.stack([q.mean, q.logvar])  # [2, B, D]
        noise = torch.randn(self.steps + 1, *q.mean.shape, dtype=start.dtype) if noise is None else noise
        state, velocity, states = start.detach(), torch.zeros_like(start), []
        for step in range(self.steps):
            states.append(state)
            gradient, *_ = self.gradients(x, state, noise[step])
            velocity = self.momentum * velocity - self.clipped(gradient)
            state = (state + self.step_size * velocity).detach()
        state.requires_grad_()
        loss = self.objective(x, state, noise[-1]).mean()
        loss.backward()
        adjoint, velocity_adjoint = state.grad, torch.zeros_like(state)
        for step in reversed(range(self.steps)):
            velocity_adjoint = velocity_adjoint + self.step_size * adjoint
            through_state, *through = self.through(x, states[step], noise[step], -velocity_adjoint)
            adjoint, velocity_adjoint = adjoint + through_state, self.momentum * velocity_adjoint
            for p, part in zip(self.parameters, through, strict=True):
                if part is not None:
                    p.grad = part if p.grad is None else p.grad + part
        start.backward(adjoint)
        return loss

    def objective(self, x: Tensor, state: Tensor, noise: Tensor) -> Tensor:
        """The loss of each example ``[B]`` at ``state`` ``[2, B, D]``."""
        mean, logvar = state
        z = mean + (0.5 * logvar).exp() * noise
        return self.model.prior.kl(Gaussian(mean, logvar)) - self.model.log_prob(x, z.unsqueeze(1)).squeeze(1)

    def gradients(self, x: Tensor, state: Tensor, noise: Tensor, graph: bool = False) -> tuple[Tensor | None, ...]:
        """Of the summed loss, for the state and every parameter."""
        state = state if graph else state.detach().requires_grad_()
        with fixed_statistics(self.model):
            loss = self.objective(x, state, noise).sum()
        return torch.autograd.grad(loss, [state, *self.parameters], create_graph=graph, allow_unused=True)

    def clipped(self, gradient: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        return gradient * (self.refine_clip / length.clamp_min(self.refine_clip))

    def through(self, x: Tensor, state: Tensor, noise: Tensor, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of Σ adjoint · clipped(gradient) for the state and every parameter."""
        if self.differences is None:
            state = state.detach().requires_grad_()
            gradient, *_ = self.gradients(x, state, noise, graph=True)
            inputs = [state, *self.parameters]
            return torch.autograd.grad(self.clipped(gradient), inputs, adjoint, allow_unused=True)
        here = self.gradients(x, state, noise)
        at = here[0].detach().requires_grad_()
        (direction,) = torch.autograd.grad(self.clipped(at), at, adjoint)
        r = self.differences / direction.norm().clamp_min(1e-12)
        there = self.gradients(x, state + r * direction, noise)
        return tuple(None if a is None else (b - a) / r for a, b in zip(here, there, strict=True))
