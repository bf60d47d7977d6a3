"""Stochastic variational inference per example, and the gradient through it.

Stored whole, K refinement steps of a large decoder need K times the memory of one. The reverse pass here keeps the
K intermediate parameters only, and goes back one step at a time: exactly, by making the step again and differentiating
it twice, or by the difference of two first gradients, which is cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.models.distributions import Gaussian
from bench.models.vae import fixed_statistics, frozen, second_order

GRADIENTS = ("exact", "differences")


def refine(
    ctx,
    x: Tensor,
    q: Gaussian,
    steps: int,
    lr: float,
    momentum: float,
    clip: float,
    differentiable: bool,
    gradient: str = "exact",
    difference: float = 1e-3,
) -> Gaussian:
    """q after ``steps`` gradient steps with momentum on its own ELBO, as a fresh Gaussian.

    x ``[B, …]``; gradients with respect to mean and log-variance are those of each example's loss, each clipped to
    norm ``clip`` per example, so neither depends on the size of the batch. ``differentiable``: the result carries the
    gradient to q's parameters and to those of decoder and prior, ``"exact"`` or by ``"differences"`` over a step whose
    root mean square in mean and log-variance is ``difference``. In evaluation the KL weight is 1.
    """
    if steps == 0:
        return q
    start = torch.stack([q.mean, q.logvar])  # [2, B, D]: refined together
    generator = ctx.generator("refine")
    noise = torch.randn(steps, *q.mean.shape, generator=generator, device=x.device, dtype=q.mean.dtype)
    model = ctx.model
    parameters = [*model.latent_to_decoder.parameters(), *model.decoder.parameters(), *model.prior.parameters()]
    if not differentiable:
        parameters, start = [], start.detach()
    by_differences = difference if gradient == "differences" and differentiable else None
    problem = _Problem(ctx, x, noise, lr, momentum, clip, by_differences)
    return Gaussian(*_Refinement.apply(problem, start, *parameters))


@dataclass
class _Problem:
    """What the steps minimise, and how."""

    ctx: Any
    x: Tensor
    noise: Tensor  # [K, B, D]
    lr: float
    momentum: float
    clip: float
    difference: float | None  # None: the exact gradient

    def gradients(self, state: Tensor, step: int, also: Sequence[Tensor] = (), twice: bool = False) -> list[Tensor]:
        """Those of the loss at ``state`` ``[2, B, D]``, summed over examples, for the state and what is named also.

        ``twice``: they can be differentiated.
        """
        model = self.ctx.model
        # In evaluation not every LSTM can be differentiated once, other than in this way.
        differentiable = second_order(model) if twice or not model.training else nullcontext()
        alone = nullcontext() if twice or also else frozen(model.parameters())
        with torch.enable_grad(), fixed_statistics(model), differentiable, alone:
            state = state if twice else state.detach().requires_grad_()
            mean, logvar = state
            z = mean + (0.5 * logvar).exp() * self.noise[step]
            with self.ctx.fixed_rng("refine", step):
                rec = -model.log_prob(self.x, z.unsqueeze(1)).sum()
            loss = self.ctx.beta * model.prior.kl(Gaussian(mean, logvar)).sum() + rec
            found = torch.autograd.grad(loss, [state, *also], create_graph=twice, allow_unused=True)
            return [torch.zeros_like(t) if g is None else g for g, t in zip(found, [state, *also], strict=True)]

    def clipped(self, gradient: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        return gradient * (self.clip / norm.clamp_min(self.clip))


class _Refinement(torch.autograd.Function):
    """start ``[2, B, D]`` -> refined ``[2, B, D]``, differentiable in start and the parameters behind the problem."""

    @staticmethod
    def forward(ctx, problem, start, *parameters):
        ctx.wanted = [place for place, p in enumerate(parameters) if p.requires_grad]
        also = [parameters[place] for place in ctx.wanted] if problem.difference else []
        state, velocity, states, gradients = start, torch.zeros_like(start), [], []
        sums = [torch.zeros_like(p) for p in also]
        for step in range(len(problem.noise)):
            gradient, *of_parameters = problem.gradients(state, step, also)
            states.append(state)
            gradients.append(gradient)
            for total, part in zip(sums, of_parameters, strict=True):
                total += part
            velocity = problem.momentum * velocity - problem.clipped(gradient)
            state = state + problem.lr * velocity
        ctx.problem, ctx.sums = problem, sums
        ctx.save_for_backward(torch.stack(states), torch.stack(gradients), *parameters)
        return state

    @staticmethod
    def backward(ctx, adjoint):
        problem = ctx.problem
        states, gradients, *parameters = ctx.saved_tensors
        wanted = [parameters[place] for place in ctx.wanted]
        if problem.difference:
            back = _Differences(problem, states, gradients, wanted, ctx.sums)
        else:
            back = _Exact(problem, states, wanted)
        velocity_adjoint = torch.zeros_like(adjoint)
        for step in reversed(range(len(states))):
            velocity_adjoint = velocity_adjoint + problem.lr * adjoint
            adjoint = adjoint + back.through(step, -velocity_adjoint)
            velocity_adjoint = problem.momentum * velocity_adjoint
        by_place = dict(zip(ctx.wanted, back.to_parameters(), strict=True))
        return None, adjoint, *(by_place.get(place) for place in range(len(parameters)))


class _Exact:
    """The way back through the clipped gradient of each step: the step is made again and differentiated."""

    def __init__(self, problem: _Problem, states: Tensor, wanted: Sequence[Tensor]):
        self.problem, self.states, self.wanted = problem, states, wanted
        self.totals = [torch.zeros_like(p) for p in wanted]

    def through(self, step: int, adjoint: Tensor) -> Tensor:
        """Adjoint of the clipped gradient -> that of the state; what goes to the parameters is added up."""
        with torch.enable_grad():
            state = self.states[step].requires_grad_()
            clipped = self.problem.clipped(self.problem.gradients(state, step, twice=True)[0])
            to_state, *parts = torch.autograd.grad(clipped, [state, *self.wanted], adjoint, allow_unused=True)
        for total, part in zip(self.totals, parts, strict=True):
            if part is not None:
                total += part
        return to_state

    def to_parameters(self) -> list[Tensor]:
        return self.totals


class _Differences:
    """The same by the gradient at a state a little further in the direction of the adjoint, less that at the state.

    Second derivatives are symmetric, so the change of all gradients along a direction is the gradient through the step.
    The length is the same for all steps, so that of the parameters' gradients at the states only the sum is needed.
    """

    def __init__(
        self, problem: _Problem, states: Tensor, gradients: Tensor, wanted: Sequence[Tensor], sums: Sequence[Tensor]
    ):
        self.problem, self.states, self.gradients, self.wanted = problem, states, gradients, wanted
        self.totals = [-total for total in sums]
        self.length: Tensor | None = None

    def through(self, step: int, adjoint: Tensor) -> Tensor:
        with torch.enable_grad():
            gradient = self.gradients[step].requires_grad_()
            (direction,) = torch.autograd.grad(self.problem.clipped(gradient), gradient, adjoint)
        if self.length is None:
            tiny = torch.finfo(direction.dtype).tiny
            self.length = self.problem.difference / direction.square().mean().sqrt().clamp_min(tiny)
        moved, *parts = self.problem.gradients(self.states[step] + self.length * direction, step, self.wanted)
        for total, part in zip(self.totals, parts, strict=True):
            total += part
        return (moved - gradient.detach()) / self.length

    def to_parameters(self) -> list[Tensor]:
        return [total / self.length for total in self.totals]
