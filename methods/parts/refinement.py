"""Stochastic variational inference per example, and the exact gradient through it.

Stored whole, K refinement steps of a large decoder need K times the memory of one. The reverse pass here keeps the
K intermediate parameters only, and recomputes one step at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models.distributions import Gaussian
from bench.models.vae import fixed_statistics, second_order


def refine(
    ctx, x: Tensor, q: Gaussian, steps: int, lr: float, momentum: float, clip: float, differentiable: bool
) -> Gaussian:
    """q after ``steps`` gradient steps with momentum on its own ELBO, as a fresh Gaussian.

    x ``[B, …]``; gradients with respect to mean and log-variance are those of each example's loss, each clipped to
    norm ``clip`` per example, so neither depends on the size of the batch. ``differentiable``: the result carries the
    gradient to q's parameters and to those of decoder and prior. In evaluation the KL weight is 1.
    """
    if steps == 0:
        return q
    start = torch.stack([q.mean, q.logvar])  # [2, B, D]: refined together
    generator = ctx.generator("refine")
    noise = torch.randn(steps, *q.mean.shape, generator=generator, device=x.device, dtype=q.mean.dtype)
    model, beta = ctx.model, ctx.beta

    def direction(state: Tensor, step: int, differentiable: bool) -> Tensor:
        """The clipped gradient ``[2, B, D]`` of the loss at ``state``."""
        mean, logvar = state
        z = mean + (0.5 * logvar).exp() * noise[step]
        with fixed_statistics(model), second_order(model), ctx.repeatable("refine", step):
            rec = -model.log_prob(x, z.unsqueeze(1)).sum()
        loss = beta * model.prior.kl(Gaussian(mean, logvar)).sum() + rec
        (gradient,) = torch.autograd.grad(loss, state, create_graph=differentiable)
        norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        return gradient * (clip / norm.clamp_min(clip))

    parameters = [p for p in (*model.to_decoder.parameters(), *model.decoder.parameters(), *model.prior.parameters())]
    if not differentiable:
        parameters = []
        start = start.detach()
    refined = _Refinement.apply(direction, (steps, lr, momentum), start, *parameters)
    return Gaussian(*refined)


class _Refinement(torch.autograd.Function):
    """start ``[2, B, D]`` -> refined ``[2, B, D]``, differentiable in start and the parameters behind ``direction``."""

    @staticmethod
    def forward(ctx, direction, settings, start, *parameters):
        steps, lr, momentum = settings
        state, velocity, states = start, torch.zeros_like(start), []
        for step in range(steps):
            states.append(state)
            with torch.enable_grad():
                gradient = direction(state.detach().requires_grad_(), step, False)
            velocity = momentum * velocity - gradient
            state = state + lr * velocity
        ctx.direction, ctx.settings = direction, settings
        ctx.save_for_backward(torch.stack(states), *parameters)
        return state

    @staticmethod
    def backward(ctx, adjoint):
        steps, lr, momentum = ctx.settings
        states, *parameters = ctx.saved_tensors
        wanted = [p for p in parameters if p.requires_grad]
        totals = [torch.zeros_like(p) for p in wanted]
        velocity_adjoint = torch.zeros_like(adjoint)
        for step in reversed(range(steps)):
            velocity_adjoint = velocity_adjoint + lr * adjoint
            with torch.enable_grad():
                state = states[step].requires_grad_()
                gradient = ctx.direction(state, step, True)
            through_state, *through = torch.autograd.grad(
                gradient, [state, *wanted], -velocity_adjoint, allow_unused=True
            )
            adjoint = adjoint + through_state
            velocity_adjoint = momentum * velocity_adjoint
            for total, part in zip(totals, through, strict=True):
                if part is not None:
                    total += part
        by_parameter = dict(zip(map(id, wanted), totals, strict=True))
        return None, None, adjoint, *(by_parameter.get(id(p)) for p in parameters)
