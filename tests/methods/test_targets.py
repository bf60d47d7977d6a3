"""Controllers reach their target and floors hold, with default settings on a problem that can reach them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.core.config import ImageModelConfig, TrainConfig
from bench.data.cache import cached
from bench.data.dataset import DataInfo
from bench.methods.geco import MAX_MULTIPLIER
from tests.conftest import TOY, planner, trainers
from tests.methods.test_contract import quick

MODEL = ImageModelConfig(
    image_size=7, latent_dim=8, encoder_channels=(16, 16), features=64, decoder_channels=16, kernels=(5, 3), skips=()
)
TRAIN = TrainConfig(epochs=24, epoch_updates=50, batch_size=50, patience=24, ramp=0.5, val_examples=20, mi_rule="mi")
PRESET = replace(TOY, model=MODEL, train=TRAIN)

CONTROLLERS = {"mdr": 5.0, "control_vae": 5.0, "soft_free_bits": 5.0, "kl_capacity": 5.0}  # method -> its KL
FLOORS = {  # method -> least KL
    "free_bits": 8.0,
    "pretrained_free_bits": 8.0,
    "delta_vae": 0.1 * MODEL.latent_dim,
    "fixed_variance": 0.097 * MODEL.latent_dim,
}


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    """Images of 28×28 with six dots at random places, about 20 nats of information that no pixel predicts."""

    def build():
        random = np.random.default_rng(0)
        rows, columns = np.mgrid[:28, :28]
        where = random.uniform(0, 28, (700, 6, 2, 1, 1))
        images = np.exp(-((rows - where[:, :, 0]) ** 2 + (columns - where[:, :, 1]) ** 2) / 8).max(1).astype(np.float32)
        about = {"name": "dots", "title": "dots", "modality": "image", "unit": "nats per image", "shape": (28, 28)}
        return DataInfo(**about, source="made by the tests"), {
            "train": images[:600], "val": images[600:650], "test": images[650:],
        }  # fmt: skip

    return cached(tmp_path_factory.mktemp("cache"), "dots", build)


@pytest.fixture
def last_quarter(dots, tmp_path):
    """``last_quarter(method)``: mean reconstruction and KL of the last quarter of training, and the method."""

    def run_training(name: str, epochs: int = TRAIN.epochs):
        train = replace(TRAIN, epochs=epochs)
        run = trainers(planner(dots, PRESET, tmp_path / "plan"), dots, PRESET)(quick(name), tmp_path / "run", train)
        loss, values = run.method.loss, []

        def recorded_loss(ctx, terms):
            if torch.is_grad_enabled():
                values.append(torch.stack([terms.rec.mean(), terms.kl.mean()]).detach())
            return loss(ctx, terms)

        run.method.loss = recorded_loss
        run.run()
        rec, kl = torch.stack(values[-epochs * TRAIN.epoch_updates // 4 :]).mean(0).tolist()
        return rec, kl, run.method

    return run_training


@pytest.mark.slow
def test_the_basic_vae_collapses(last_quarter):
    """The targets and floors below are not what the basic VAE does by itself."""
    _, kl, _ = last_quarter("vae")
    assert kl < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLLERS)
def test_controllers_reach_their_kl(name, last_quarter):
    _, kl, _ = last_quarter(name)
    assert kl == pytest.approx(CONTROLLERS[name], rel=0.25)


@pytest.mark.slow
def test_geco_reaches_its_reconstruction(last_quarter):
    """Within a quarter of the margin, which is stricter than within a quarter of κ."""
    rec, kl, method = last_quarter("geco", epochs=48)
    assert rec == pytest.approx(method.kappa.item(), abs=0.25 * method.config.margin)
    assert kl > 1 and 1 / MAX_MULTIPLIER < method.multiplier < MAX_MULTIPLIER


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOORS)
def test_floors_hold(name, last_quarter):
    _, kl, _ = last_quarter(name)
    assert kl >= 0.9 * FLOORS[name]
