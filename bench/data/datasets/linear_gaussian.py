"""Linear-Gaussian vectors x = W z + μ + ε, for which everything is known in closed form.

z ~ N(0, I) and ε ~ N(0, noise² I). The columns of W are orthogonal cosine vectors with squared lengths from 16 to 2, a
geometric sequence, and μ_i = (-1)^i. So x ~ N(μ, W Wᵀ + noise² I), whose eigenvalues are those lengths plus noise², and
noise². Of a linear VAE that is trained on such data, NLL, mutual information and the number of dimensions that collapse
are known, too (Lucas et al., NeurIPS 2019): see ``bench.data.vector.linear_optimum``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.data.cache import cached
from bench.data.dataset import DataInfo, Prepared

SUMMARY = "vectors of a linear-Gaussian model, with everything known in closed form"
NEEDS_DOWNLOAD = False
SETTINGS: dict[str, Any] = {"dim": 8, "latent": 4, "train": 2_000, "noise": 1.0}

OTHER_SIZES = {"val": 1_000, "test": 2_000}
SQUARED_LENGTHS = (16.0, 2.0)  # of the first and the last column of W
SEED = 20_190_506
DECIMALS = 4  # of x: the last bits of cosines and logarithms differ between machines
PREPARATION_VERSION = 1  # increase when the same settings give different arrays


def prepare(data_dir: Path | None, cache: Path, **changes: Any) -> Prepared:
    """Generate the vectors; ``data_dir`` is not used. ``changes`` of ``SETTINGS``; ``UserError`` for invalid ones."""
    dim, latent, train, noise = (SETTINGS | changes).values()
    whole = all(type(number) is int for number in (dim, latent, train))
    if (
        not whole
        or not 1 <= latent < dim
        or train < 1
        or not isinstance(noise, (int, float))
        or not 0.01 <= noise <= 100
    ):
        raise UserError(
            "linear_gaussian: 'dim', 'latent' and 'train' are whole numbers with 1 ≤ latent < dim and train ≥ 1, and "
            "'noise' is a number from 0.01 to 100"
        )
    model, sizes = LinearGaussian(dim, latent, noise), {"train": train, **OTHER_SIZES}
    changed = [f"{key}={value}" for key, value in changes.items() if value != SETTINGS[key]]
    name = "-".join(["linear_gaussian", *sorted(changed)])

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        arrays = {split: model.sample(size, stream) for stream, (split, size) in enumerate(sizes.items())}
        arrays["test_nll"] = np.round(-model.log_prob(arrays["test"]), 6)
        arrays["mi"] = np.round(model.mutual_information, 6)
        info = DataInfo(
            name=name,
            title=f"linear-Gaussian ({latent} in {dim} dimensions)",
            modality="vector",
            unit="nats per vector",
            shape=(dim,),
            source=f"generated with seed {SEED}",
            protocol="linear_gaussian",
            values="real",
        )
        return info, arrays

    return cached(cache, f"{name}-{SEED}-r{PREPARATION_VERSION}", build)


@dataclass(frozen=True)
class LinearGaussian:
    """The distribution of x ``[N, dim]``."""

    dim: int
    latent: int
    noise: float

    @property
    def mean(self) -> np.ndarray:
        return np.where(np.arange(self.dim) % 2, -1.0, 1.0)

    @property
    def directions(self) -> np.ndarray:
        """The orthonormal columns ``[dim, latent]`` of W: those of a discrete cosine transform, without the first."""
        angles = np.pi / self.dim * np.outer(np.arange(self.dim) + 0.5, np.arange(1, self.latent + 1))
        return np.sqrt(2 / self.dim) * np.cos(angles)

    @property
    def squared_lengths(self) -> np.ndarray:
        return np.geomspace(*SQUARED_LENGTHS, self.latent)

    @property
    def weights(self) -> np.ndarray:
        """W ``[dim, latent]``."""
        return self.directions * np.sqrt(self.squared_lengths)

    @property
    def mutual_information(self) -> float:
        """I(x; z) in nats."""
        return float(0.5 * np.log1p(self.squared_lengths / self.noise**2).sum())

    def sample(self, count: int, stream: int) -> np.ndarray:
        """Sample x, float32 ``[count, dim]``."""
        random = np.random.Generator(np.random.Philox(key=np.array([SEED, stream], dtype=np.uint64)))
        uniform = random.random((2, count, self.latent + self.dim))
        normal = np.sqrt(-2 * np.log1p(-uniform[0])) * np.cos(2 * np.pi * uniform[1])  # Box & Muller (1958)
        x = self.mean + normal[:, : self.latent] @ self.weights.T + self.noise * normal[:, self.latent :]
        return np.round(x, DECIMALS).astype(np.float32)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return log p(x): float64 ``[N]``."""
        centred = x - self.mean
        projected = centred @ self.directions  # [N, latent]
        variances = self.squared_lengths + self.noise**2
        rest = (centred**2).sum(axis=1) - (projected**2).sum(axis=1)  # outside of the columns of W
        quadratic = (projected**2 / variances).sum(axis=1) + rest / self.noise**2
        log_determinant = np.log(variances).sum() + 2 * (self.dim - self.latent) * np.log(self.noise)
        return -0.5 * (quadratic + log_determinant + self.dim * np.log(2 * np.pi))
