"""How long a run may take here: guesses in basic updates, whose seconds are measured once per machine and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch

from bench.config import Preset, short_hash
from bench.datasets import cache_dir
from bench.method import Method
from bench.models.image import build_image_model
from bench.plan import Cell
from bench.provenance import machine
from bench.store import write_json

PIXELS = 10_000  # in a batch to measure with, on a CPU
DECODING = 0.3  # of an update: what decoding a batch once takes


def estimate(
    cells: Sequence[Cell], preset: Preset, sizes: Mapping[str, int], device: str, threads: int
) -> dict[Path, float]:
    """Cell folder -> seconds that the cell may take here."""
    each = seconds_per_update(preset, device, threads)
    return {
        cell.folder.path: each * cell_updates(cell.variant.instance(), preset, sizes, cell.status == "trained")
        for cell in cells
    }


def wall(seconds: Collection[float], side_by_side: int) -> float:
    """Wall-clock of cells run so many at a time."""
    return max(sum(seconds) / side_by_side, max(seconds))


def cell_updates(method: Method, preset: Preset, sizes: Mapping[str, int], trained: bool = False) -> float:
    """A guess at a cell's work in basic updates: its method's cost per step, its validations and its evaluation."""
    train, evaluation = preset.train, preset.evaluation
    cost = method.expected_cost(train)
    validated = train.epochs * min(train.val_examples or sizes["val"], sizes["val"])
    tested = min(evaluation.test_examples or sizes["test"], sizes["test"])
    samples = evaluation.iw_samples if method.latent else 1
    looks = DECODING * (cost * (validated + tested) + tested * samples) / train.batch_size
    return looks if trained else cost * train.updates(sizes["train"]) + looks


def seconds_per_update(preset: Preset, device: str, threads: int) -> float:
    """Seconds of a basic VAE's update at the preset's sizes, from the cache or measured now (a few seconds at most)."""
    key = short_hash([machine(device), torch.__version__, threads, preset.model, preset.train.batch_size])
    path = cache_dir() / "seconds-per-update.json"
    known = _read(path)
    if key not in known:
        torch.set_num_threads(threads)
        known[key] = _measure(preset, device)
        try:
            write_json(path, known)
        except OSError:
            pass  # measured again next time
    return known[key]


def _measure(preset: Preset, device: str) -> float:
    batch, size = preset.train.batch_size, preset.model.image_size
    if device == "cpu":  # where time goes with the pixels, and a part of the paper's batch takes one second, not five
        batch = max(2, min(batch, PIXELS // size**2))
    model = build_image_model(preset.model).to(device)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    x = (torch.rand(batch, 1, size, size, device=device) < 0.2).float()

    def update() -> None:
        q = model.encode(x)
        loss = model.prior.kl(q).mean() - model.log_prob(x, q.rsample(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    return _median_seconds(update) * preset.train.batch_size / batch


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
