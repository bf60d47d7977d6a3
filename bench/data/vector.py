"""Vectors as tensors: real values, counts or binary values, used as they are given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bench.core.config import VectorModelConfig
from bench.core.syntax import parse_call, parse_value
from bench.data.base import Data, labels_by_split
from bench.data.dataset import SPLITS, DataInfo

MAX_LOG_DISPERSION = 8.0  # of the negative binomial, above which it is nearly Poisson
MIN_VARIANCE = math.exp(-12)  # of the Gaussian likelihood, whose log σ is at least -6
GOLDEN = (math.sqrt(5) - 1) / 2
SEARCH_STEPS = 30  # of the golden-section search, which end at an interval of 10⁻⁵


@dataclass(kw_only=True)
class VectorData(Data):
    """Vectors on one device: ``train``, ``val`` and ``test`` are float32 ``[N, D]``."""

    model: VectorModelConfig
    true_nll: np.ndarray | None = None  #: float64 ``[N]`` of the test set under the true distribution, if known.
    true_mi: float | None = None  #: I(x; z) of the true distribution in nats, if known.

    @classmethod
    def from_arrays(cls, info: DataInfo, arrays: Mapping[str, np.ndarray], model: VectorModelConfig) -> VectorData:
        """Return the arrays of ``Prepared`` as tensors."""
        return cls(
            info=info,
            **{split: torch.from_numpy(arrays[split]) for split in SPLITS},
            labels=labels_by_split(arrays),
            model=model,
            true_nll=arrays.get("test_nll"),
            true_mi=arrays["mi"].item() if "mi" in arrays else None,
        )

    def with_val_as_test(self) -> VectorData:
        return replace(super().with_val_as_test(), true_nll=None, true_mi=None)

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training vectors ``index`` (int64 ``[B]``): float32 ``[B, D]``."""
        return self.train[index]

    def references(self, count: int | None) -> dict[str, float]:
        """Return the NLL of independent dimensions, of the linear VAE at its optimum, and of the true distribution.

        Independent dimensions, by maximum likelihood: Gaussian; of counts, negative binomial; of binary values,
        Bernoulli. Real values with a Gaussian likelihood also have ``ppca``, see ``linear_optimum``. ``…_mi`` is the
        mutual information of x and z, ``…_dims`` the number of dimensions in use, ``…_se`` a standard error.
        """
        train, test = (values.cpu().double().numpy() for values in (self.train, self.test[:count]))
        independent = {"real": gaussian_nll, "count": negative_binomial_nll, "binary": bernoulli_nll}
        fit = independent[self.info.values]
        references = {f"independent_{fit.__name__.removesuffix('_nll')}": float(fit(train, test).sum(1).mean())}
        likelihood = parse_call(self.model.likelihood or "gaussian")
        if self.info.values == "real" and likelihood.name == "gaussian":
            sigma = parse_value(likelihood.settings.get("sigma", ["none"])[0])
            references |= linear_optimum(train, test, self.model.latent_dim, sigma)
        if self.true_nll is not None:
            exact = self.true_nll[:count]
            deviation = exact.std(ddof=1).item() if len(exact) > 1 else math.nan
            references |= {
                "true_generator": exact.mean().item(),
                "true_generator_se": deviation / math.sqrt(len(exact)),
                **({} if self.true_mi is None else {"true_generator_mi": self.true_mi}),
            }
        return references

    def unit_metrics(self, nll: float, count: int | None) -> dict[str, float]:
        """Return bits per dimension."""
        return {"bpd": nll / (self.test.shape[1] * math.log(2))}


def gaussian_nll(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the NLL ``[N, D]`` of independent Gaussians with the mean and variance of the training values."""
    variance = train.var(axis=0).clip(MIN_VARIANCE)
    return 0.5 * ((test - train.mean(axis=0)) ** 2 / variance + np.log(2 * np.pi * variance))


def bernoulli_nll(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the NLL ``[N, D]`` of independent Bernoulli values; frequencies are clamped to [1/(2N), 1 - 1/(2N)]."""
    margin = 1 / (2 * len(train))
    frequency = train.mean(axis=0).clip(margin, 1 - margin)
    return -(test * np.log(frequency) + (1 - test) * np.log1p(-frequency))


def negative_binomial_nll(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the NLL ``[N, D]`` of independent negative binomials, fitted by maximum likelihood.

    The estimate of the mean is the sample mean, at least 1/(2N); that of the inverse dispersion is searched by golden
    sections in e^±8.
    """
    mean = torch.from_numpy(train.mean(axis=0).clip(1 / (2 * len(train))))
    values = torch.from_numpy(train)

    def nll(x: Tensor, log_dispersion: Tensor) -> Tensor:
        distribution = torch.distributions.NegativeBinomial(
            log_dispersion.exp(), logits=mean.log() - log_dispersion, validate_args=False
        )
        return -distribution.log_prob(x)

    low, high = torch.full_like(mean, -MAX_LOG_DISPERSION), torch.full_like(mean, MAX_LOG_DISPERSION)
    for _ in range(SEARCH_STEPS):
        inner = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left = nll(values, inner[0]).mean(0) < nll(values, inner[1]).mean(0)
        low, high = torch.where(left, low, inner[0]), torch.where(left, inner[1], high)
    return nll(torch.from_numpy(test), (low + high) / 2).numpy()


def linear_optimum(train: np.ndarray, test: np.ndarray, latent_dim: int, sigma: float | None) -> dict[str, float]:
    """Return NLL, mutual information and number of dimensions in use of the linear VAE at the maximum of its ELBO.

    That is the maximum-likelihood probabilistic PCA (Tipping & Bishop, 1999; Lucas et al., 2019) of the training
    sample: of the ``latent_dim`` largest eigenvalues λ of its covariance, those above σ² are in use, with
    I(x; z) = ½ Σ log(λ / σ²). Without a ``sigma``, σ² is the mean of the other eigenvalues.
    """
    mean = train.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(np.cov(train.T, ddof=0).reshape(train.shape[1], -1))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    rest = eigenvalues[latent_dim:] if latent_dim < len(eigenvalues) else eigenvalues[-1:]
    noise = max(rest.mean(), MIN_VARIANCE) if sigma is None else sigma**2
    kept = eigenvalues[:latent_dim]
    kept = kept[kept > noise]
    variances = np.full(len(eigenvalues), noise)
    variances[: len(kept)] = kept
    nll = 0.5 * (((test - mean) @ vectors) ** 2 / variances + np.log(2 * np.pi * variances)).sum(axis=1)
    return {
        "ppca": float(nll.mean()),
        "ppca_mi": float(0.5 * np.log(kept / noise).sum()),
        "ppca_dims": float(len(kept)),
    }
