"""Shared by the tests: a toy data set that is made in memory, and a model small enough to train in moments."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import data as tensors
from bench.cell import fresh
from bench.config import EvaluationConfig, ImageModelConfig, Preset, TrainConfig
from bench.data.image import ImageData
from bench.datasets import Prepared, cached
from bench.expressions import variants
from bench.plan import Cell, plan
from bench.train import Trainer

MODEL = ImageModelConfig(
    image_size=7,
    latent_dim=3,
    encoder_channels=(4, 4),
    features=8,
    decoder_channels=6,
    kernels=(5, 3, 3),
    skips=(3,),
    maps=2,
)
TRAIN = TrainConfig(
    epochs=3, epoch_updates=4, batch_size=10, ramp=0.5, val_examples=20, extra_updates=6.0, mi_rule="mi"
)
EVALUATION = EvaluationConfig(test_examples=20, iw_samples=4, batch_size=10, pictures=2)
TOY = Preset("toy", "for tests", 1, (), MODEL, TRAIN, EVALUATION)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Prepared:
    """Blurry blobs of 28×28: enough structure to learn from, none to download."""

    def build():
        random = np.random.default_rng(0)
        rows, columns = np.mgrid[:28, :28]
        where = random.uniform(6, 22, (160, 2, 1, 1))
        images = np.exp(-((rows - where[:, 0]) ** 2 + (columns - where[:, 1]) ** 2) / 20).astype(np.float32)
        about = {
            "name": "toy",
            "title": "toy",
            "modality": "image",
            "unit": "nats per image",
            "shape": (28, 28),
            "source": "made by the tests",
        }
        return about, {"train": images[:100], "val": images[100:130], "test": images[130:]}

    return cached(tmp_path_factory.mktemp("cache"), "toy", build)


@pytest.fixture(scope="session")
def data(prepared) -> ImageData:
    return tensors.load(prepared, MODEL)


@pytest.fixture
def planned(prepared, tmp_path):
    """``planned("vae")`` -> the cell of an expression on the toy data, in a folder of its own."""

    def make(expression: str, train: TrainConfig = TRAIN, out: Path | None = None, seed: int = 0) -> Cell:
        rows, _ = variants([expression], TOY.name)
        preset = replace(TOY, train=train)
        return plan(rows, prepared.info, preset, 1, seed, "cpu", out or tmp_path / "out")[0]

    return make


@pytest.fixture
def task(prepared):
    """``task(cell)`` -> what a worker is given."""

    def make(cell: Cell, **changes) -> dict:
        return {
            "config": cell.config,
            "folder": str(cell.folder.path),
            "data": str(prepared.path),
            "evaluation": asdict(EVALUATION),
            "threads": 1,
            "shared": 1,
            "gpu_share": 0,
            "command": "pytest",
        } | changes

    return make


@pytest.fixture
def trainer(planned, data):
    """``trainer("vae", folder)`` -> a Trainer of that expression, ready to run."""

    def make(expression: str, folder: Path, train: TrainConfig = TRAIN) -> Trainer:
        folder.mkdir(parents=True, exist_ok=True)
        method, model, seed = fresh(planned(expression, train).config)
        return Trainer(method, model, data, train, seed, folder, lambda history: None)

    return make
