"""What a user gives, checked: posteriors, prior, likelihood, labels and the history of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from bench.core.errors import UserError
from bench.diagnosis.distributions import AnyGaussian, FullGaussianPosterior, TorchPrior, UserModel, call
from bench.models.distributions import Gaussian, Prior, StandardNormal

ENCODING_BATCH = 256  # examples that a callable encodes at a time
MODE_TOLERANCE = 1e-2  # between two evaluations of a posterior; those of float16 differ by less
HISTORY = ("kl", "kl_weight")
NO_EXAMPLES = "no examples: give the posteriors of 1,000 or more"
MAX_LOGVAR = 60.0  # a log-variance above this is no log-variance: the standard deviation would be 1e13
SUPPORTED = (
    "give a pair (mean, logvar) of shape [N, D], a torch Normal, Independent(Normal) or MultivariateNormal of N "
    "examples, or a function from data to one of these"
)
VARIANCES = (
    "no posterior is narrower than the prior in any dimension: check that logvar is the natural logarithm of the "
    "variances, not a variance or a standard deviation"
)


@dataclass(frozen=True)
class History:
    """Numbers logged during training, ``[T]`` each: KL in nats per example, and the KL weight if it was logged."""

    kl: np.ndarray
    kl_weight: np.ndarray | None


@dataclass(frozen=True)
class Subject:
    """Posteriors of N examples in float64 and in units of the prior, with what else is known about the model."""

    q: AnyGaussian
    model: UserModel
    data: Tensor | None
    labels: np.ndarray | None
    kl_weight: float | None
    history: History | None
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.q.mean)

    @property
    def has_likelihood(self) -> bool:
        return self.model.user_log_prob is not None


def read(
    posterior: Any,
    data: Any,
    prior: Distribution | None,
    log_prob: Callable[[Tensor, Tensor], Tensor] | None,
    labels: Any,
    kl_weight: float | None,
    history: Mapping[str, Any] | None,
) -> Subject:
    """Check everything that ``bench.diagnose`` takes. Raise ``UserError`` with one line for what is wrong."""
    data = None if data is None else _tensor_or_object(data)
    q, shape, dtype = _posterior(posterior, data)
    if (count := len(q.mean)) < 2:
        raise UserError("1 example: give the posteriors of at least 2, better of 1,000")
    prior_module, location, scale = _prior(prior, shape, q.mean)
    q = _in_units_of_prior(q, location, scale)
    notes = [VARIANCES] if isinstance(q, Gaussian) and q.logvar.min() >= 0 and q.logvar.max() > 0 else []
    if unused := [str(name) for name in (() if history is None else history) if name not in HISTORY]:
        notes.append(f"history has {', '.join(unused)}, which is not read: only {' and '.join(HISTORY)} are")
    if log_prob is not None and not isinstance(data, Tensor):
        raise UserError("log_prob needs data: give the x of the posteriors as a tensor [N, …], or their indices")
    if isinstance(data, Tensor) and len(data) != count:
        raise UserError(f"data has {len(data)} examples, the posteriors are of {count}: give the same examples")
    model = UserModel(prior_module, log_prob, location, scale, shape, dtype)
    return Subject(
        q,
        model,
        data if isinstance(data, Tensor) else None,
        _labels(labels, count),
        None if kl_weight is None else _weight(kl_weight),
        None if history is None else _history(history),
        tuple(notes),
    )


def _tensor_or_object(data: Any) -> Any:
    if isinstance(data, np.ndarray) and data.dtype.kind in "fiub":
        tensor = torch.from_numpy(data)
        return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor
    return data


def _posterior(posterior: Any, data: Any) -> tuple[AnyGaussian, tuple[int, ...], torch.dtype]:
    """Return the posteriors in float64, the shape of z of one example, and the type of the model's numbers."""
    if callable(posterior):
        if data is None:
            raise UserError("the posterior is a function, but there is no data: use diagnose(function, data)")
        if isinstance(data, Tensor) and len(data) == 0:
            raise UserError(NO_EXAMPLES)
        batches = data.split(ENCODING_BATCH) if isinstance(data, Tensor) else [data]
        with torch.no_grad():
            parts = [_encoded(posterior, batch) for batch in batches]
            _check_mode(parts[0], _encoded(posterior, data[:2] if isinstance(data, Tensor) else data))
        parameters = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
    else:
        parameters = _parameters(posterior)
    mean, spread = parameters
    dtype = mean.dtype if mean.is_floating_point() else torch.get_default_dtype()
    shape = tuple(mean.shape[1:])
    mean, spread = mean.double(), spread.double()
    if spread.shape != mean.shape:  # Cholesky factors
        return FullGaussianPosterior(mean, spread), shape, dtype
    return Gaussian(mean.flatten(1), spread.flatten(1)), shape, dtype


def _encoded(posterior: Callable[[Any], Any], batch: Any) -> tuple[Tensor, Tensor]:
    return _parameters(call("the posterior", posterior, batch))


def _check_mode(many: tuple[Tensor, Tensor], few: tuple[Tensor, Tensor]) -> None:
    """Raise ``UserError`` if the posteriors of the first examples depend on chance, or on the rest of their batch.

    ``few`` are those of a second call, of a smaller batch where the data can be split.
    """
    for alone, together in zip(few, many, strict=True):
        if not torch.allclose(alone, together[: len(alone)], rtol=MODE_TOLERANCE, atol=MODE_TOLERANCE):
            raise UserError(
                "the posterior of an example is not the same in another call: switch to model.eval(), and give the "
                "data in a fixed order"
            )


def _parameters(posterior: Any) -> tuple[Tensor, Tensor]:
    """Return mean ``[N, …]`` and log-variance of the same shape, or the Cholesky factor ``[N, D, D]``."""
    if isinstance(posterior, Distribution):
        return _of_distribution(posterior)
    if hasattr(posterior, "mean") and hasattr(posterior, "logvar"):
        posterior = posterior.mean, posterior.logvar
    if not isinstance(posterior, (tuple, list)) or len(posterior) != 2:
        size = f" of {len(posterior)}" if isinstance(posterior, (tuple, list)) else ""
        raise UserError(f"a posterior cannot be a {type(posterior).__name__}{size}: {SUPPORTED}")
    if all(isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[0], Tensor) for part in posterior):
        raise UserError("a posterior cannot be a list of batches: join the means, and the log-variances, by torch.cat")
    mean, logvar = (_numbers(name, value) for name, value in zip(("mean", "logvar"), posterior, strict=True))
    if mean.dim() < 2:
        raise UserError(f"mean has shape {[*mean.shape]}: write [N, D], with one row for each example")
    if len(mean) == 0:
        raise UserError(NO_EXAMPLES)
    if mean.shape != logvar.shape:
        raise UserError(f"mean has shape {[*mean.shape]}, but logvar {[*logvar.shape]}: both must be [N, D]")
    if mean[0].numel() == 0:
        raise UserError("mean has no latent dimensions: write [N, D] with D of at least 1")
    if (largest := logvar.max().item()) > MAX_LOGVAR:
        raise UserError(f"logvar has a value of {largest:.3g}: give the natural logarithm of the variances")
    return mean, logvar


def _of_distribution(posterior: Distribution) -> tuple[Tensor, Tensor]:
    while isinstance(posterior, Independent):
        posterior = posterior.base_dist
    if isinstance(posterior, Normal):
        return _parameters((posterior.loc, 2 * posterior.scale.log()))
    if isinstance(posterior, (MultivariateNormal, LowRankMultivariateNormal)):
        mean = _numbers("loc", posterior.loc)
        if mean.dim() != 2:
            raise UserError(f"the posteriors have shape {[*mean.shape]}: give a MultivariateNormal of N examples")
        if isinstance(posterior, MultivariateNormal):
            return mean, _numbers("scale_tril", posterior.scale_tril)
        return mean, torch.linalg.cholesky(_numbers("covariance_matrix", posterior.covariance_matrix))
    raise UserError(f"posteriors of type {type(posterior).__name__} cannot be diagnosed: {SUPPORTED}")


def _numbers(name: str, value: Any) -> Tensor:
    """Return finite real numbers as a tensor. Arrays of NumPy get torch's default type of numbers."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise UserError(f"{name} is an array of {array.dtype}: give real numbers")
        value = torch.from_numpy(array.astype(np.float64))
        default = torch.get_default_dtype()
        value = value.to(default) if torch.isfinite(value.to(default)).all() else value
    if value.is_complex() or value.dtype == torch.bool:
        raise UserError(f"{name} is a tensor of {value.dtype}: give real numbers")
    value = value.detach()
    if not (finite := torch.isfinite(value)).all():
        first = int((~finite).nonzero()[0][0])
        raise UserError(
            f"{name} has {int((~finite).sum()):,} NaN or infinite values, the first in example {first}: "
            "the model diverged, or leave these examples out"
        )
    return value


def _prior(prior: Distribution | None, shape: Sequence[int], like: Tensor) -> tuple[Prior, Tensor, Tensor]:
    """Return the prior of z in its units, and the location and scale ``[D]`` of these units.

    A product of Gaussians is N(0, I) in its own units, in which KL and MI are the same.
    """
    dim, zero, one = like.shape[1], torch.zeros_like(like[0]), torch.ones_like(like[0])
    if prior is None:
        return StandardNormal(dim), zero, one
    if not isinstance(prior, Distribution):
        raise UserError(f"prior cannot be a {type(prior).__name__}: give a torch distribution, or leave it out")
    base: Distribution = prior
    while isinstance(base, Independent):
        base = base.base_dist
    whole = tuple(prior.batch_shape + prior.event_shape)
    if isinstance(base, Normal):
        if whole not in ((), (1,), tuple(shape)):
            raise UserError(f"the prior has shape {[*whole]}, but z of one example {[*shape]}: give the same")
        location, scale = (t.detach().to(like).expand(shape).reshape(-1) for t in (base.loc, base.scale))
        return StandardNormal(dim), location, scale
    if tuple(prior.batch_shape) or tuple(prior.event_shape) != (dim,):
        raise UserError(
            f"the prior has batch shape {[*prior.batch_shape]} and event shape {[*prior.event_shape]}: give one "
            f"distribution over vectors, with event shape [{dim}]"
        )
    return TorchPrior(prior, dim, prior.sample().dtype), zero, one


def _in_units_of_prior(q: AnyGaussian, location: Tensor, scale: Tensor) -> AnyGaussian:
    mean = (q.mean - location) / scale
    if isinstance(q, Gaussian):
        return Gaussian(mean, q.logvar - 2 * scale.log())
    return FullGaussianPosterior(mean, q.root / scale.unsqueeze(1))


def _labels(labels: Any, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    values = values.astype(str) if values.dtype == object else values
    if values.shape != (count,):
        raise UserError(f"labels have shape {[*values.shape]}: give one for each of the {count} examples, [{count}]")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError("labels have NaN: leave these examples out, or give the labels as text")
    return values


def _weight(kl_weight: float) -> float:
    try:
        weight = float(kl_weight)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"kl_weight is {kl_weight!r}: give one number, the KL weight of the final objective (ELBO: 1)")
    return weight


def _history(history: Mapping[str, Any]) -> History:
    """Return the history from sequences of equal length: ``kl``, and optionally ``kl_weight``."""
    if "kl" not in history:
        raise UserError("history has no 'kl': give kl, and optionally kl_weight, with one value per logged step")
    columns = {name: _logged(name, history[name]) for name in HISTORY if name in history}
    lengths = {name: len(values) for name, values in columns.items()}
    if len({*lengths.values()}) > 1:
        raise UserError(f"history has {lengths['kl']} values of kl and {lengths['kl_weight']} of kl_weight: log both")
    if lengths["kl"] < 2 or not all(np.isfinite(values).all() for values in columns.values()):
        raise UserError("history needs at least 2 finite values of kl (and of kl_weight): leave out the others")
    if "kl_weight" in columns and columns["kl_weight"].min() < 0:
        raise UserError("history has a negative kl_weight: give the factor of the KL in the loss")
    return History(columns["kl"], columns.get("kl_weight"))


def _logged(name: str, values: Any) -> np.ndarray:
    """Return logged values ``[T]``: numbers, arrays, or tensors with or without a gradient."""
    try:
        if not isinstance(values, (Tensor, np.ndarray)):
            values = [float(value.detach() if isinstance(value, Tensor) else value) for value in values]
        values = values.detach().cpu() if isinstance(values, Tensor) else values
        return np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise UserError(f"history['{name}'] cannot be read: give one number per logged step") from error
