"""Vectors: the user's file, and the reference models by maximum likelihood."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import bench
from bench.core.config import VectorModelConfig
from bench.core.errors import UserError
from bench.data import tensors, user_data
from bench.data.dataset import SPLITS
from bench.data.vector import linear_optimum, negative_binomial_nll
from bench.experiment.worker import run_cell
from tests.conftest import EVALUATION, VECTOR_TOY, planner, tasks


def splits(array) -> dict[str, np.ndarray]:
    return dict(zip(SPLITS, np.split(array, [6, 8]), strict=True))


def prepare(tmp_path, arrays):
    np.savez_compressed(tmp_path / "Cells.npz", **arrays)
    return user_data.prepare(tmp_path / "Cells.npz", tmp_path / "cache")


@pytest.mark.parametrize(("dtype", "values"), [("float64", "real"), ("uint16", "count"), ("bool", "binary")])
def test_type_of_vectors_decides_their_likelihood(dtype, values, tmp_path):
    array = np.random.default_rng(0).poisson(2, (10, 4)).astype(dtype)
    prepared = prepare(
        tmp_path, {**splits(array), "train_labels": [0, 1] * 3, "val_labels": [0, 1], "test_labels": [1, 1]}
    )
    info = prepared.info
    assert (info.modality, info.values, info.shape, info.unit) == ("vector", values, (4,), "nats per vector")
    data = tensors.load(prepared, VectorModelConfig())
    assert torch.equal(data.test, torch.from_numpy(array[8:].astype(np.float32)))
    assert data.labels["test"].tolist() == [1, 1] and np.isfinite([*data.references(None).values()]).all()


def test_unusable_vectors(tmp_path, subtests):
    array = np.ones((10, 4))
    for change, problem in [
        ({"val": None, "test": None}, "no array val or test; split the vectors"),
        ({"val": array[:2, :3]}, "3 in val"),
        ({"val": array[:2].astype(int)}, "give all splits one type"),
        ({"test": array[:2] * np.nan}, "NaN"),
        ({split: values.astype(int) - 2 for split, values in splits(array).items()}, "integers from -1"),
        ({"train_labels": [1, 2]}, "labels only of train"),
    ]:
        arrays = {name: values for name, values in {**splits(array), **change}.items() if values is not None}
        with subtests.test(problem), pytest.raises(UserError, match=problem) as error:
            prepare(tmp_path, arrays)
        assert "\n" not in str(error.value)


def test_independent_negative_binomial_is_the_best_one():
    train = np.random.default_rng(0).negative_binomial(2, 0.3, (500, 1)).astype(float)

    def nll(log_r: float) -> float:
        r, mean = np.exp(log_r), train.mean()
        return -stats.nbinom.logpmf(train, r, r / (r + mean)).mean()

    best = optimize.minimize_scalar(nll, bounds=(-8, 8), method="bounded").fun
    assert negative_binomial_nll(train, train).mean() == pytest.approx(best, abs=1e-6)


def test_linear_optimum_is_probabilistic_pca():
    """Of the density with covariance W Wᵀ + σ² I (Tipping & Bishop, 1999), for fixed and for fitted σ²."""
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 5)) @ random.normal(size=(5, 5)) + 3
    train, test = x[:300], x[300:]
    values, vectors = np.linalg.eigh(np.cov(train.T, ddof=0))
    for sigma, noise in ((values[2] ** 0.5 * 1.01, values[2] * 1.01**2), (None, values[:2].mean())):
        weights = vectors[:, 2:] * np.sqrt((values[2:] - noise).clip(0))
        covariance = weights @ weights.T + noise * np.eye(5)
        optimum = linear_optimum(train, test, 3, sigma)
        expected = -stats.multivariate_normal(train.mean(0), covariance).logpdf(test).mean()
        assert optimum["ppca"] == pytest.approx(expected)
        assert optimum["ppca_dims"] == (2 if sigma else 3)
        information = 0.5 * np.linalg.slogdet(np.eye(3) + weights.T @ weights / noise)[1]
        assert optimum["ppca_mi"] == pytest.approx(information)


def test_a_loaded_vector_cell(count_prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(count_prepared.path.parent))
    cell = planner(count_prepared, VECTOR_TOY, tmp_path)("vae")
    run_cell(tasks(count_prepared)(cell, evaluation=replace(EVALUATION, metrics=())))
    loaded = bench.load(cell.folder.path)
    x = count_prepared.arrays()["test"][:4]
    z = loaded.encode(x.astype(int)).mean
    assert loaded.decode(z).shape == loaded.sample(4).shape == (4, 6) and loaded.iw_nll(x).shape == (4,)
    assert loaded.metrics["bpd"] == pytest.approx(loaded.metrics["iw_nll"] / 6 / np.log(2))
    with pytest.raises(UserError, match=r"takes vectors \[N, 6\]"):
        loaded.encode(x[:, :5])
    with pytest.raises(UserError, match="not count values"):
        loaded.encode(x + 0.5)
