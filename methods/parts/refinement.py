"""Stochastic variational inference (SVI) per example, and the gradient through it.

The graph of K refinement steps of a large decoder needs K times the memory of one. The backward pass here stores only
the K intermediate states and goes back one step at a time: exactly, by recomputing the step and differentiating it
twice, or by the difference of two first-order gradients, which is cheaper.

λ = (mean, log-variance) is a tensor (2, B, D) throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.method import Context, Gaussian
from bench.models.vae import fixed_statistics, frozen, second_order

GRADIENTS = ("exact", "differences")
#: Cost of a step in basic updates, measured on a CPU at the sizes of preset ``small``: without a gradient through it,
#: and with it by kind of gradient and modality.
STEP_COST = 0.55
GRADIENT_COST = {
    "exact": {"image": 3.2, "text": 2.5, "vector": 2.5},
    "differences": {"image": 1.6, "text": 1.5, "vector": 1.5},
}


def refine(
    ctx: Context,
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
    """Return q after gradient steps with momentum on the negative ELBO of each example.

    Step size and clipping are those of the published code, which refines a batch by its mean loss; applied to each
    example as in a full batch of the preset, they do not depend on the batch at hand.

    Args:
        ctx: Provides the model, the KL weight (1 in evaluation) and the noise.
        x: Batch (B, …).
        q: Initial posterior.
        steps: Number of steps K; with 0, q itself is returned.
        lr: Step size in λ on the mean loss of a batch of the preset's size B: lr / B on the loss of an example.
        momentum: Momentum ρ.
        clip: Maximum norm of the mean loss's gradients with respect to all means and to all log-variances of such a
            batch: clip √B for those of an example, the same if examples are alike.
        differentiable: Propagate gradients to q and to the parameters of decoder and prior.
        gradient: "exact", or "differences" for finite differences.
        difference: Root mean square of the finite-difference step in λ.
    """
    if steps == 0:
        return q
    start = torch.stack([q.mean, q.logvar])  # (2, B, D)
    generator = ctx.generator("refine")
    noise = torch.randn(steps, *q.mean.shape, generator=generator, device=x.device, dtype=q.mean.dtype)
    model = ctx.model
    parameters = [*model.latent_to_decoder.parameters(), *model.decoder.parameters(), *model.prior.parameters()]
    if not differentiable:
        parameters, start = [], start.detach()
    step_size = difference if gradient == "differences" and differentiable else None
    batch_size = ctx.train.batch_size
    problem = _Problem(ctx, x, noise, lr / batch_size, momentum, clip * math.sqrt(batch_size), step_size)
    return Gaussian(*_Refinement.apply(problem, start, *parameters))


@dataclass
class _Problem:
    """The per-example negative ELBO and the settings of its minimisation."""

    ctx: Context
    x: Tensor
    noise: Tensor  # (K, B, D)
    lr: float
    momentum: float
    clip: float
    difference: float | None  # None: exact gradient

    def gradients(
        self, state: Tensor, step: int, parameters: Sequence[Tensor] = (), create_graph: bool = False
    ) -> list[Tensor]:
        """Return the gradients of the summed loss at λ ``state`` (2, B, D) with respect to it and ``parameters``."""
        model = self.ctx.model
        # cuDNN's LSTM cannot be differentiated in evaluation mode either.
        differentiable = second_order(model) if create_graph or not model.training else nullcontext()
        no_parameter_gradients = nullcontext() if create_graph or parameters else frozen(model.parameters())
        with torch.enable_grad(), fixed_statistics(model), differentiable, no_parameter_gradients:
            state = state if create_graph else state.detach().requires_grad_()
            mean, logvar = state
            z = mean + (0.5 * logvar).exp() * self.noise[step]
            with self.ctx.fixed_rng("refine", step):
                rec = -model.log_prob(self.x, z.unsqueeze(1)).sum()
            kl = model.prior.kl(Gaussian(mean, logvar))
            assert kl is not None, "refinement needs a prior with a closed-form KL"
            loss = self.ctx.beta * kl.sum() + rec
            inputs = [state, *parameters]
            gradients = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
            return [torch.zeros_like(t) if g is None else g for g, t in zip(gradients, inputs, strict=True)]

    def clipped(self, gradient: Tensor) -> Tensor:
        """Clip a gradient (2, B, D) to norm ``clip`` per example and parameter."""
        norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        return gradient * (self.clip / norm.clamp_min(self.clip))


class _Refinement(torch.autograd.Function):
    """λ_0 (2, B, D) -> λ_K (2, B, D), differentiable in λ_0 and the parameters of the problem."""

    @staticmethod
    def forward(ctx: Any, problem: _Problem, start: Tensor, *parameters: Tensor) -> Tensor:
        ctx.trainable = [i for i, p in enumerate(parameters) if p.requires_grad]
        trainable = [parameters[i] for i in ctx.trainable] if problem.difference else []
        state, velocity = start, torch.zeros_like(start)
        states, gradients = [], []
        sums = [torch.zeros_like(p) for p in trainable]
        for step in range(len(problem.noise)):
            gradient, *parameter_gradients = problem.gradients(state, step, trainable)
            states.append(state)
            gradients.append(gradient)
            for total, part in zip(sums, parameter_gradients, strict=True):
                total += part
            velocity = problem.momentum * velocity - problem.clipped(gradient)
            state = state + problem.lr * velocity
        ctx.problem, ctx.sums = problem, sums
        ctx.save_for_backward(torch.stack(states), torch.stack(gradients), *parameters)
        return state

    @staticmethod
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        problem = ctx.problem
        states, gradients, *parameters = ctx.saved_tensors
        trainable = [parameters[i] for i in ctx.trainable]
        reverse: _ReverseStep
        if problem.difference:
            reverse = _DifferenceStep(problem, states, gradients, trainable, ctx.sums)
        else:
            reverse = _ExactStep(problem, states, trainable)
        velocity_adjoint = torch.zeros_like(adjoint)
        for step in reversed(range(len(states))):
            velocity_adjoint = velocity_adjoint + problem.lr * adjoint
            adjoint = adjoint + reverse(step, -velocity_adjoint)
            velocity_adjoint = problem.momentum * velocity_adjoint
        by_index = dict(zip(ctx.trainable, reverse.parameter_gradients(), strict=True))
        return None, adjoint, *(by_index.get(i) for i in range(len(parameters)))


class _ReverseStep(Protocol):
    """Backward pass through the clipped gradient of one step."""

    def __call__(self, step: int, adjoint: Tensor) -> Tensor:
        """Return the adjoint of the state from that of the clipped gradient; accumulate parameter gradients."""
        ...

    def parameter_gradients(self) -> list[Tensor]:
        """Return the accumulated gradients of the trainable parameters."""
        ...


class _ExactStep:
    """Recomputes the step and differentiates it twice."""

    def __init__(self, problem: _Problem, states: Tensor, trainable: Sequence[Tensor]) -> None:
        self.problem, self.states, self.trainable = problem, states, trainable
        self.totals = [torch.zeros_like(p) for p in trainable]

    def __call__(self, step: int, adjoint: Tensor) -> Tensor:
        with torch.enable_grad():
            state = self.states[step].requires_grad_()
            clipped = self.problem.clipped(self.problem.gradients(state, step, create_graph=True)[0])
            state_adjoint, *parts = torch.autograd.grad(clipped, [state, *self.trainable], adjoint, allow_unused=True)
        for total, part in zip(self.totals, parts, strict=True):
            if part is not None:
                total += part
        return state_adjoint

    def parameter_gradients(self) -> list[Tensor]:
        return self.totals


class _DifferenceStep:
    """Hessian-vector products by finite differences of gradients.

    The Hessian is symmetric, so the change of all gradients along a direction is the vector-Jacobian product with it.
    The step length is the same for all K steps; therefore only the sum of the parameters' gradients at the states is
    needed.
    """

    def __init__(
        self,
        problem: _Problem,
        states: Tensor,
        gradients: Tensor,
        trainable: Sequence[Tensor],
        sums: Sequence[Tensor],
    ) -> None:
        self.problem, self.states, self.gradients, self.trainable = problem, states, gradients, trainable
        self.totals = [-total for total in sums]
        self.length: Tensor | None = None

    def __call__(self, step: int, adjoint: Tensor) -> Tensor:
        with torch.enable_grad():
            gradient = self.gradients[step].requires_grad_()
            (direction,) = torch.autograd.grad(self.problem.clipped(gradient), gradient, adjoint)
        if self.length is None:
            tiny = torch.finfo(direction.dtype).tiny
            self.length = self.problem.difference / direction.square().mean().sqrt().clamp_min(tiny)
        shifted, *parts = self.problem.gradients(self.states[step] + self.length * direction, step, self.trainable)
        for total, part in zip(self.totals, parts, strict=True):
            total += part
        return (shifted - gradient.detach()) / self.length

    def parameter_gradients(self) -> list[Tensor]:
        return [total / self.length for total in self.totals]
