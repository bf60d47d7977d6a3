"""How long a run may take here: guesses in basic updates, whose seconds are measured once per machine and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.core.config import FULL_PRECISION, ImageModelConfig
from bench.core.files import write_json
from bench.core.hashing import short_hash
from bench.core.provenance import machine
from bench.data.cache import cache_dir
from bench.data.dataset import END, START, DataInfo, Prepared
from bench.data.tensors import apply_model_config, batches_per_pass
from bench.evaluation.registry import metric_groups
from bench.experiment.plan import PlannedCell
from bench.experiment.presets import Preset
from bench.method import Method
from bench.models.build import build_model
from bench.models.precision import autocast, no_autocast

PIXELS = 10_000  # in a batch to measure with, on a CPU
TYPICAL_WORDS = 80  # of a document: the mean of the published sets
DECODING = 0.3  # of an update: what decoding a batch once takes


def estimate(
    cells: Sequence[PlannedCell], preset: Preset, data: Prepared, device: str, threads: int
) -> dict[Path, float]:
    """Cell folder -> seconds that the cell may take here; basic updates where this machine has not such a device."""
    each = seconds_per_update(preset, data.info, device, threads) if can_measure(device) else 1.0
    updates, sizes = planned_updates(preset, data), data.info.sizes
    return {
        cell.folder.path: each * cell_updates(cell.variant.instance(), preset, updates, sizes, cell.status == "trained")
        for cell in cells
    }


def can_measure(device: str) -> bool:
    """Whether this machine has such a device, as it need not for a cluster's work."""
    return device == "cpu" or torch.cuda.is_available()


def planned_updates(preset: Preset, data: Prepared) -> int:
    """Updates of the decoder that the preset plans on this data."""
    train = preset.train
    return train.updates(train.epoch_updates or batches_per_pass(data, preset.model, train))


def wall_clock(seconds: Collection[float], side_by_side: int) -> float:
    """Wall-clock of cells run so many at a time."""
    return max(sum(seconds) / side_by_side, max(seconds))


def cell_updates(
    method: Method, preset: Preset, updates: int, sizes: Mapping[str, int], trained: bool = False
) -> float:
    """A guess at a cell's work in basic updates: its method's cost per step, its validations and its evaluation."""
    train, evaluation = preset.train, preset.evaluation
    cost = method.expected_cost(train)
    validated = train.epochs * min(train.val_examples or sizes["val"], sizes["val"])
    tested = min(evaluation.test_examples or sizes["test"], sizes["test"])
    groups = metric_groups()
    decoded = tested * evaluation.iw_samples + sum(
        groups[name].decodings(evaluation.groups[name]) for name in evaluation.metrics
    )
    looks = DECODING * (cost * (validated + tested) + (decoded if method.latent else tested)) / train.batch_size
    return looks if trained else cost * updates + looks


def seconds_per_update(preset: Preset, data: DataInfo, device: str, threads: int) -> float:
    """Seconds of a basic VAE's update at the preset's sizes, from the cache or measured now (a few seconds at most)."""
    sizes = [preset.model, preset.train.batch_size, data.shape, data.vocabulary]
    reduced = [precision] if (precision := preset.train.precision) != FULL_PRECISION else []
    key = short_hash([machine(device), torch.__version__, threads, *sizes, *reduced])
    path = cache_dir() / "seconds-per-update.json"
    known = _read(path)
    if key not in known:
        torch.set_num_threads(threads)
        known[key] = _measure(preset, data, device)
        try:
            write_json(path, known)
        except OSError:
            pass  # measured again next time
    return known[key]


def _measure(preset: Preset, data: DataInfo, device: str) -> float:
    batch = preset.train.batch_size
    if device == "cpu" and isinstance(preset.model, ImageModelConfig):
        # Time goes with the pixels, and a part of the paper's batch takes one second, not five.
        batch = max(2, min(batch, PIXELS // preset.model.image_size**2))
    data = apply_model_config(data, preset.model)
    model = build_model(preset.model, data).to(device)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    x = random_batch(preset.model, data, batch).to(device)

    def update() -> None:
        optimiser.zero_grad()
        with autocast(model, preset.train.precision):
            q = model.encode(x)
            loss = model.prior.kl(q).mean() - model.log_prob(x, q.rsample(1)).mean()
            with no_autocast(device):
                loss.backward()
        optimiser.step()
        loss.item()

    return _median_seconds(update) * preset.train.batch_size / batch


def random_batch(model: Any, data: DataInfo, batch: int) -> torch.Tensor:
    """Examples of the shape that the model takes."""
    if isinstance(model, ImageModelConfig):
        return (torch.rand(batch, 1, model.image_size, model.image_size) < 0.2).float()
    length = min(TYPICAL_WORDS, data.shape[0] - 2)
    x = torch.randint(END + 1, data.vocabulary, (batch, length + 2))
    x[:, 0], x[:, -1] = START, END
    return x


def _median_seconds(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[1]  # the first warms up


def _read(path: Path) -> dict[str, float]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
