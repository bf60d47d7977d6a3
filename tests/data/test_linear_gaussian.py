"""The generated linear-Gaussian set against closed forms and samples."""

import numpy as np
import pytest
from scipy import stats

from bench.core.config import VectorModelConfig
from bench.core.errors import UserError
from bench.data.datasets.linear_gaussian import LinearGaussian
from bench.data.registry import prepare
from bench.data.tensors import load


def test_density_and_information_are_those_of_a_gaussian():
    model = LinearGaussian(dim=7, latent=3, noise=0.5)
    np.testing.assert_allclose(model.directions.T @ model.directions, np.eye(3), atol=1e-12)
    x = model.sample(20_000, stream=0)
    covariance = model.weights @ model.weights.T + 0.25 * np.eye(7)
    gaussian = stats.multivariate_normal(model.mean, covariance)
    np.testing.assert_allclose(model.log_prob(x), gaussian.logpdf(x), rtol=1e-6)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.25)
    np.testing.assert_allclose(x.mean(axis=0), model.mean, atol=0.1)
    entropies = gaussian.entropy() - stats.multivariate_normal(np.zeros(7), 0.25 * np.eye(7)).entropy()
    assert model.mutual_information == pytest.approx(entropies)


def test_validation_as_test_has_no_truth_of_the_test_set(tmp_path):
    data = load(prepare("linear_gaussian(dim=5,latent=2,train=100)", None, tmp_path), VectorModelConfig())
    assert {"true_generator", "true_generator_mi"} <= data.references(None).keys()
    assert not {"true_generator", "true_generator_mi"} & data.with_val_as_test().references(None).keys()


def test_set_has_its_truth(tmp_path):
    data = prepare("linear_gaussian(dim=5,latent=2,train=100)", None, tmp_path)
    arrays = data.arrays()
    assert data.info.name == "linear_gaussian-dim=5-latent=2-train=100" and data.info.protocol == "linear_gaussian"
    assert arrays["train"].shape == (100, 5) and arrays["train"].dtype == np.float32
    assert arrays["test_nll"] == pytest.approx(-LinearGaussian(5, 2, 1.0).log_prob(arrays["test"]), abs=1e-6)
    assert not np.array_equal(arrays["train"][:10], arrays["val"][:10])
    for settings in ("latent=8", "noise=0", "train=many", "dim=2.5"):
        with pytest.raises(UserError, match="use|whole numbers"):
            prepare(f"linear_gaussian({settings})", None, tmp_path)
