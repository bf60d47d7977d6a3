"""Posteriors, priors and likelihoods of a user's model as the estimators take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils.data import DataLoader, Dataset

from bench.core.errors import UserError
from bench.models.distributions import LOG_2PI, Gaussian, Posterior, Prior

PAIRWISE_NUMBERS = 2**24  # of z in the coordinates of each example, in memory at a time


class FullGaussianPosterior(Posterior):
    """q(z|x) = N(mean, root rootᵀ) with a full covariance: mean ``[B, D]``, lower triangular root ``[B, D, D]``."""

    def __init__(self, mean: Tensor, root: Tensor) -> None:
        self.mean, self.root = mean, root

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        batch, dim = self.mean.shape
        noise = torch.randn(batch, samples, dim, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean.unsqueeze(1) + noise @ self.root.mT

    def log_prob(self, z: Tensor) -> Tensor:
        u = torch.linalg.solve_triangular(self.root, (z - self.mean.unsqueeze(1)).mT, upper=False)  # (B, D, S)
        return -0.5 * (u.square() + LOG_2PI).sum(1) - self.log_volume().unsqueeze(1)

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        batch, dim = self.mean.shape
        whiten = torch.linalg.solve_triangular(
            self.root, torch.eye(dim, dtype=self.root.dtype, device=self.root.device).expand_as(self.root), upper=False
        )
        centre = (whiten @ self.mean.unsqueeze(2)).squeeze(2)  # (B, D)
        parts = []
        for part in z.split(max(1, PAIRWISE_NUMBERS // (batch * dim))):
            u = torch.einsum("bij,nj->nbi", whiten, part) - centre
            parts.append(-0.5 * (u.square() + LOG_2PI).sum(-1) - self.log_volume())
        return torch.cat(parts)

    def marginals(self) -> Gaussian:
        """Return the marginal Gaussian of every dimension."""
        return Gaussian(self.mean, self.root.square().sum(-1).log())

    def log_volume(self) -> Tensor:
        """Return log |det root| ``[B]``."""
        return self.root.diagonal(dim1=1, dim2=2).log().sum(-1)


AnyGaussian = Gaussian | FullGaussianPosterior


def rows(q: AnyGaussian, index: Tensor) -> AnyGaussian:
    """Return the posteriors of some examples."""
    if isinstance(q, Gaussian):
        return Gaussian(q.mean[index], q.logvar[index])
    return FullGaussianPosterior(q.mean[index], q.root[index])


def marginals(q: AnyGaussian) -> Gaussian:
    """Return the Gaussian of every dimension."""
    return q if isinstance(q, Gaussian) else q.marginals()


class TorchPrior(Prior):
    """A prior without a closed form of the KL, given as a distribution over vectors of D dimensions."""

    def __init__(self, distribution: Distribution, dim: int, dtype: torch.dtype) -> None:
        super().__init__(dim)
        self.distribution, self.dtype = distribution, dtype

    def log_prob(self, z: Tensor) -> Tensor:
        return call("log_prob of the prior", self.distribution.log_prob, z.to(self.dtype)).to(z.dtype)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device if generator else "cpu"))
        with torch.random.fork_rng():  # distributions take no generator
            torch.manual_seed(seed)
            return self.distribution.sample((count,)).to(device, torch.float64)


def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a user's function returns; ``UserError`` with its arguments and the first line of its error."""
    try:
        return function(*arguments)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # of torch: shapes, types, devices, values
        given = " and ".join(f"{[*a.shape]} ({a.dtype})" if isinstance(a, Tensor) else str(type(a)) for a in arguments)
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        if any(isinstance(argument, (DataLoader, Dataset)) for argument in arguments):
            reason += "; give the x of all examples as a tensor [N, …], or a function that takes the whole loader"
        elif "type" in reason:
            reason += "; arrays of NumPy become torch's default type: give tensors of the model's type"
        raise UserError(f"{name} failed on {given}: {reason}") from error


class UserModel(nn.Module):
    """p(z) p(x|z) of a user's model, with z in units of the prior.

    ``log_prob(x, z)`` of the user takes x ``[B, …]`` and z ``[B, *shape]`` in ``dtype`` and returns ``[B]`` in nats.
    """

    def __init__(
        self,
        prior: Prior,
        log_prob: Callable[[Tensor, Tensor], Tensor] | None,
        location: Tensor,
        scale: Tensor,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.prior, self.latent_dim, self.user_log_prob = prior, prior.dim, log_prob
        self.location, self.scale, self.shape, self.dtype = location, scale, tuple(shape), dtype

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z): x ``[B, …]``, z ``[B, S, D]`` -> ``[B, S]``."""
        assert self.user_log_prob is not None
        batch, samples = z.shape[:2]
        z = (self.location + self.scale * z).flatten(0, 1)
        return self.log_prob_of_pairs(x.repeat_interleave(samples, dim=0), z).view(batch, samples)

    def log_prob_of_pairs(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the user's log p(x|z) ``[B]`` of x ``[B, …]`` and z ``[B, D]`` in the user's units.

        Raise ``UserError`` if the function fails, or returns another shape or NaN.
        """
        assert self.user_log_prob is not None
        z = z.unflatten(1, self.shape).to(self.dtype)
        result = call("log_prob", self.user_log_prob, x, z)
        if not isinstance(result, Tensor) or result.shape != (len(z),):
            shape = [*result.shape] if isinstance(result, Tensor) else type(result).__name__
            raise UserError(
                f"log_prob of {len(z)} examples returned {shape}: return log p(x|z) of each example, [B], in nats"
            )
        if result.isnan().any():
            raise UserError("log_prob returned NaN: check the model's weights and x")
        return result
