"""The linear VAE on linear-Gaussian data, where collapse, NLL and information are known (Lucas et al., 2019).

With a fixed σ and a KL weight β, ``min(D, #{λ > β σ²})`` dimensions live, for the eigenvalues λ of the covariance of
the training sample, and a living dimension has a KL of ½ log(λ / (β σ²)).
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.core.config import TrainConfig, VectorModelConfig
from bench.data import tensors
from bench.data.datasets.linear_gaussian import LinearGaussian
from bench.data.registry import prepare
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.evaluator import evaluate
from bench.evaluation.metrics import EvaluationContext, compute_metrics
from bench.experiment.factory import build_from_config
from tests.conftest import TOY, planner, trainers

LATENT_DIM = 6
#: β σ²: between the eigenvalues, none within 10 % of one, and below and above all of them.
THRESHOLDS = (20.5, 15.5, 10.8, 8.0, 5.5, 3.8, 1.5, 0.8)
#: Methods whose fixed point is that of the ELBO with KL weight β. An annealed weight ends at 1; inner updates of the
#: encoder and refined posteriors optimise the same bound; the importance-weighted bound of one sample is the ELBO.
METHODS = {
    "vae": 1.0,
    "beta_vae(beta=0.5)": 0.5,
    "beta_vae(beta=2.0)": 2.0,
    "vae+anneal": 1.0,
    "aggressive": 1.0,
    "sa_vae(steps=2)": 1.0,
    "iwae(samples=1)": 1.0,
}
#: Without decay of the learning rate, which restores the weights of the best ELBO: not those of the least β-VAE loss.
TRAIN = TrainConfig(
    epochs=2,
    epoch_updates=500,
    batch_size=2_000,
    lr=0.02,
    patience=99,
    ramp=0.2,
    val_examples=100,
    extra_updates_until=0.1,
)
SHORT = replace(TRAIN, epochs=1, epoch_updates=250, batch_size=500, lr=0.05)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    return prepare("linear_gaussian", None, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def eigenvalues(generated) -> np.ndarray:
    """Eigenvalues of the covariance of the training sample, in descending order."""
    return np.linalg.eigvalsh(np.cov(generated.arrays()["train"].T.astype(float), ddof=0))[::-1]


def preset(sigma: float, train: TrainConfig = TRAIN):
    model = VectorModelConfig(LATENT_DIM, architecture="linear", likelihood=f"gaussian(sigma={sigma})")
    return replace(TOY, model=model, train=train)


def check_living_dimensions(expression, threshold, train, generated, eigenvalues, folder):
    chosen = preset((threshold / METHODS[expression]) ** 0.5, train)
    trainer = trainers(planner(generated, chosen, folder / "plan"), generated, chosen)(expression, folder / "cell")
    trainer.run()
    # The last weights: validation selects by ELBO.
    trainer.model.load_state_dict(torch.load(folder / "cell" / "last.pt", weights_only=True)["model"])
    ctx = EvaluationContext(trainer.model, trainer.data.info, train, 0)
    result = compute_metrics(trainer.method, ctx, trainer.data.train.split(500), 1, 10_000)
    expected = 0.5 * np.log((eigenvalues[:LATENT_DIM] / threshold).clip(1))
    assert result.metrics["au"] == result.metrics["au_kl"] == np.count_nonzero(expected)
    kl_dim = result.kl_dim.double().mean(0).sort(descending=True).values.numpy()
    assert kl_dim.sum() == pytest.approx(expected.sum(), abs=0.06)
    np.testing.assert_allclose(kl_dim, expected, atol=0.2)  # the directions within the subspace converge slowly


def test_thresholds_are_between_the_eigenvalues(eigenvalues):
    ratios = np.array(THRESHOLDS)[:, None] / eigenvalues
    assert (np.abs(np.log(ratios)) > math.log(1.1)).all()


def test_living_dimensions_of_a_short_training(generated, eigenvalues, tmp_path):
    check_living_dimensions("vae", 3.8, SHORT, generated, eigenvalues, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("expression", METHODS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_living_dimensions_are_those_of_the_formula(expression, threshold, generated, eigenvalues, tmp_path):
    check_living_dimensions(expression, threshold, TRAIN, generated, eigenvalues, tmp_path)


def test_estimates_agree_with_closed_forms(generated, tmp_path):
    """NLL and MI of the true generator with an encoder that is too wide: its means are right, its variances double."""
    truth, arrays = LinearGaussian(8, 4, 1.0), generated.arrays()
    chosen = replace(preset(truth.noise), model=replace(preset(truth.noise).model, latent_dim=4))
    method, model, _ = build_from_config(planner(generated, chosen, tmp_path)("vae").config)
    weights, mean = (torch.from_numpy(values).float() for values in (truth.weights, truth.mean))
    variances = 1 / (1 + torch.from_numpy(truth.squared_lengths).float() / truth.noise**2)  # of the true posterior
    encoder = variances.unsqueeze(1) * weights.T / truth.noise**2
    with torch.no_grad():
        model.latent_to_decoder.linear.weight.copy_(weights)
        model.latent_to_decoder.linear.bias.copy_(mean)
        model.head.linear.weight.copy_(encoder)
        model.head.linear.bias.copy_(-encoder @ mean)
        model.head.logvar.copy_((2 * variances).log())
    settings = {"test_examples": 1000, "iw_samples": 200, "metrics": ("refined_iw",), "pictures": 0}
    config = EvaluationConfig.build(settings | {"refined_iw_examples": 50, "refined_iw_samples": 200})
    data = tensors.load(generated, chosen.model)
    record = evaluate(method, model, data, chosen.train, config, seed=0).record
    metrics, exact = record.metrics, arrays["test_nll"][:1000].mean()
    assert 0 < metrics["iw_nll_mc_se"] < 0.01
    assert metrics["iw_nll"] == pytest.approx(exact, abs=3 * metrics["iw_nll_mc_se"])
    assert metrics["nll"] == pytest.approx(exact, abs=0.02)  # from its difference to IW-NLL on 50 examples
    # KL of q to the true posterior, which is the gap between NLL and ELBO
    gap = 4 * 0.5 * (2 - 1 - math.log(2))
    assert -metrics["elbo"] - exact == pytest.approx(gap, abs=0.02)
    # Under q, z has the covariance of the prior plus that of the added width.
    aggregate = 1 - variances + 2 * variances
    information = 0.5 * (aggregate / (2 * variances)).log().sum().item()
    assert metrics["mi"] - 0.15 < information < metrics["mi_high"] + 0.15
    assert metrics["mi_high"] - metrics["mi"] < 0.6
    references = record.references
    assert references["true_generator"] == pytest.approx(exact)
    assert references["true_generator_mi"] == pytest.approx(-0.5 * variances.log().sum().item(), abs=1e-4)
    # Fitted to 2,000 vectors: about one nat per 2,000 for each of 38 parameters, half of it, worse than the truth
    assert references["ppca_dims"] == 4 and 0 < references["ppca"] - exact < 0.05
