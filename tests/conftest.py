"""Shared by the tests: a toy data set that is made in memory, and a model small enough to train in moments."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings

from bench.core.config import ImageModelConfig, TextModelConfig, TrainConfig, VectorModelConfig
from bench.data import tensors
from bench.data.cache import cached
from bench.data.dataset import END, SPECIALS, START, DataInfo, Prepared
from bench.data.image import ImageData
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.metrics import validate
from bench.experiment.factory import build_from_config
from bench.experiment.plan import PlannedCell, plan
from bench.experiment.presets import Preset
from bench.experiment.task import CellTask
from bench.training.expressions import parse_methods
from bench.training.trainer import Trainer

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
    epochs=3, epoch_updates=4, batch_size=10, ramp=0.5, val_examples=20, extra_updates_until=0.2, mi_rule="mi"
)
EVALUATION = EvaluationConfig.build(
    {
        "test_examples": 20,
        "iw_samples": 25,
        "batch_size": 10,
        "pictures": 2,
        "metrics": ("refined_iw", "latent_use"),
        "refined_iw_examples": 4,
        "refined_iw_steps": 3,
        "refined_iw_samples": 25,
        "latent_use_examples": 6,
    }
)
TOY = Preset("toy", "for tests", 1, (), MODEL, TRAIN, EVALUATION)

TEXT_MODEL = TextModelConfig(latent_dim=2, embedding=6, hidden=8)
TEXT_TRAIN = replace(TRAIN, optimiser="sgd", lr=1.0)
TEXT_TOY = replace(TOY, model=TEXT_MODEL, train=TEXT_TRAIN)
VECTOR_TOY = replace(TOY, model=VectorModelConfig(latent_dim=2, hidden=8))

#: Settings of the property tests: the same inputs every time.
steady = settings(derandomize=True, deadline=None, max_examples=100)


@pytest.fixture(scope="session", autouse=True)
def fast_cells():
    """Freeze what is imported once instead of for every cell, and do not wait for the disk."""
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        nothing = dict.fromkeys(("collect", "freeze", "unfreeze"), lambda: None)
        patch.setattr("bench.training.torch_setup.gc", SimpleNamespace(**nothing))
        patch.setattr("bench.core.files.os.fsync", lambda descriptor: None)
        yield


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
        return DataInfo(**about), {"train": images[:100], "val": images[100:130], "test": images[130:]}

    return cached(tmp_path_factory.mktemp("cache"), "toy", build)


@pytest.fixture(scope="session")
def text_prepared(tmp_path_factory) -> Prepared:
    """Sentences of two to nine words whose words lean to one half of a vocabulary of twenty."""

    def build():
        random = np.random.default_rng(0)
        rows = np.zeros((200, 11), np.int32)
        for row in rows:
            n = random.integers(2, 10)
            half = random.integers(2)
            words = random.integers(0, 8, n) + 8 * (random.random(n) < (0.9 if half else 0.1))
            row[: n + 2] = [START, *words + len(SPECIALS), END]
        vocabulary = np.array([*SPECIALS, *(f"word{i}" for i in range(16))])
        about = {
            "name": "toy-text",
            "title": "toy text",
            "modality": "text",
            "unit": "nats per sentence",
            "shape": (11,),
            "source": "made by the tests",
            "vocabulary": len(vocabulary),
        }
        return DataInfo(**about), {
            "train": rows[:130],
            "val": rows[130:160],
            "test": rows[160:],
            "vocabulary": vocabulary,
        }

    return cached(tmp_path_factory.mktemp("cache"), "toy-text", build)


def vectors(values: str, folder: Path) -> Prepared:
    """Vectors of six dimensions, "real" or "count", that depend on two."""

    def build():
        random = np.random.default_rng(0)
        x = random.normal(size=(160, 2)) @ random.normal(size=(2, 6)) + 0.3 * random.normal(size=(160, 6))
        x = (x if values == "real" else random.poisson(np.exp(x))).astype(np.float32)
        info = DataInfo(f"toy-{values}", "toy", "vector", "nats per vector", (6,), source="tests", values=values)
        return info, {"train": x[:100], "val": x[100:130], "test": x[130:]}

    return cached(folder, f"toy-{values}", build)


@pytest.fixture(scope="session")
def vector_prepared(tmp_path_factory) -> Prepared:
    """Real vectors."""
    return vectors("real", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def count_prepared(tmp_path_factory) -> Prepared:
    """Vectors of counts."""
    return vectors("count", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def toy_data(prepared, text_prepared, vector_prepared) -> dict[str, Prepared]:
    """Toy data by modality."""
    return {"image": prepared, "text": text_prepared, "vector": vector_prepared}


@pytest.fixture(scope="session")
def data(prepared) -> ImageData:
    return tensors.load(prepared, MODEL)


def planner(data: Prepared, preset: Preset, folder: Path, device: str = "cpu"):
    def make(expression: str, train: TrainConfig = preset.train, out: Path | None = None, seed: int = 0) -> PlannedCell:
        rows, _ = parse_methods([expression], preset.name)
        return plan(rows, data.info, replace(preset, train=train), 1, seed, device, out or folder)[0]

    return make


def tasks(data: Prepared):
    def make(cell: PlannedCell, **changes) -> CellTask:
        task = CellTask(cell.config, cell.folder.path, data.path, EVALUATION, command="pytest")
        return replace(task, **changes)

    return make


def trainers(planned, data: Prepared, preset: Preset):
    def make(expression: str, folder: Path, train: TrainConfig = preset.train) -> Trainer:
        folder.mkdir(parents=True, exist_ok=True)
        config = planned(expression, train).config
        method, model, seed = build_from_config(config)
        loaded = tensors.load(data, preset.model).to(config.device)
        return Trainer(method, model, loaded, train, seed, folder, validate, lambda *_: None)

    return make


@pytest.fixture
def planned(prepared, tmp_path):
    """``planned("vae")`` -> the cell of an expression on the toy data, in a folder of its own."""
    return planner(prepared, TOY, tmp_path / "out")


@pytest.fixture
def text_planned(text_prepared, tmp_path):
    """The same on the toy text."""
    return planner(text_prepared, TEXT_TOY, tmp_path / "out")


@pytest.fixture
def task(prepared):
    """``task(cell)`` -> what a worker is given."""
    return tasks(prepared)


@pytest.fixture
def text_task(text_prepared):
    return tasks(text_prepared)


@pytest.fixture
def trainer(planned, prepared):
    """``trainer("vae", folder)`` -> a Trainer of that expression, ready to run."""
    return trainers(planned, prepared, TOY)


@pytest.fixture
def text_trainer(text_planned, text_prepared):
    return trainers(text_planned, text_prepared, TEXT_TOY)


@pytest.fixture
def no_figures(monkeypatch):
    """Reports without figures."""
    monkeypatch.setattr("bench.reporting.figures.draw", lambda *_: [])


def assert_equal_weights(one: dict, other: dict) -> None:
    """Two state dictionaries, bit for bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
