"""Estimate how long cells take: costs in basic updates, whose seconds are measured once per machine and cached."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from bench.core.config import ImageModelConfig, ModelConfig, VectorModelConfig
from bench.core.files import read_json, write_json
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
from bench.training.torch_setup import gpu_name, torch_settings

MAX_DAYS = 14  # of an estimate
TYPICAL_WORDS = 80  # of a document: the mean of the published data sets
DECODING_COST = 0.3  # of an update: decoding a batch once


def estimate(
    cells: Sequence[PlannedCell], preset: Preset, data: Prepared, device: str, threads: int
) -> dict[Path, float]:
    """Return cell folder → estimated seconds; basic updates if this machine does not have the device."""
    unit = seconds_per_update(preset, data.info, device, threads) if can_measure(device) else 1.0
    updates = planned_updates(preset, data)
    return {
        cell.folder.path: unit * cell_updates(cell.variant.instance(), preset, updates, data.info, cell.state.trained)
        for cell in cells
    }


def can_measure(device: str) -> bool:
    """Return whether this machine has the device. It need not, for a run on a cluster."""
    return device == "cpu" or torch.cuda.is_available()


def planned_updates(preset: Preset, data: Prepared) -> int:
    """Return the number of decoder updates of the preset on this data set."""
    train = preset.train
    return train.updates(train.epoch_updates or batches_per_pass(data, preset.model, train))


def duration(seconds: float) -> str:
    """Return a duration as text, in the largest unit of which it has at least two: ``"90 s"``, ``"3 h"``."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def about(seconds: float) -> str:
    """Return an estimate as text, without a number above ``MAX_DAYS``."""
    return f"more than {MAX_DAYS} days" if is_too_long(seconds) else f"about {duration(seconds)}"


def is_too_long(seconds: float) -> bool:
    """Return whether a run should use other machines."""
    return seconds > MAX_DAYS * 86400


def wall_clock(seconds: Collection[float], parallel: int) -> float:
    """Return the time of cells of which ``parallel`` run at the same time."""
    return max(sum(seconds) / parallel, max(seconds))


def cell_updates(method: Method, preset: Preset, updates: int, data: DataInfo, trained: bool = False) -> float:
    """Return the estimated cost of a cell in basic updates: training, validation and evaluation.

    ``trained``: only the evaluation is missing.
    """
    train, evaluation, groups, sizes = preset.train, preset.evaluation, metric_groups(), data.sizes
    cost = method.expected_cost(train, data)
    validated = 0 if trained else train.epochs * min(train.val_examples or sizes["val"], sizes["val"])
    tested = min(evaluation.test_examples or sizes["test"], sizes["test"])
    decoded = float(tested)
    if method.latent:
        decoded *= evaluation.iw_samples
        decoded += sum(groups[name].decodings(evaluation.groups[name]) for name in evaluation.metrics)
    evaluated = DECODING_COST * (cost * (validated + tested) + decoded) / train.batch_size
    return evaluated if trained else cost * updates + evaluated


def seconds_per_update(preset: Preset, data: DataInfo, device: str, threads: int) -> float:
    """Return the seconds of a basic VAE's update at the preset's sizes on an idle machine.

    Measured once and stored, so on a CPU it is CPU time per thread, which other programs hardly change.
    """
    sizes = [preset.model, preset.train.batch_size, data.shape, data.vocabulary, preset.train.precision]
    key = short_hash([asdict(machine(gpu_name(device))), torch.__version__, threads, *sizes])
    path = cache_dir() / "update-seconds.json"
    try:
        known: dict[str, float] = read_json(path)
    except (OSError, ValueError):
        known = {}
    if key not in known:
        with torch_settings(device, threads):
            known[key] = _measure(preset, data, device, threads)
        with suppress(OSError):  # measured again by the next run
            write_json(path, known)
    return known[key]


def _measure(preset: Preset, data: DataInfo, device: str, threads: int) -> float:
    data = apply_model_config(data, preset.model)
    model = build_model(preset.model, data).to(device)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    x = random_batch(preset.model, data, preset.train.batch_size).to(device)
    clock = time.process_time if device == "cpu" else time.perf_counter

    times: list[float] = []
    while len(times) < 2 or len(times) < 10 and sum(times) < 1:  # the first ones allocate memory and take longer
        started = clock()
        optimiser.zero_grad()
        with autocast(model, preset.train.precision):
            q = model.encode(x)
            loss = model.prior.kl(q).mean() - model.log_prob(x, q.rsample(1)).mean()
            with no_autocast(device):
                loss.backward()
        optimiser.step()
        loss.item()
        times.append(clock() - started)
    return min(times) / (threads if device == "cpu" else 1)


def random_batch(model: ModelConfig, data: DataInfo, batch: int) -> Tensor:
    """Return random examples as the model takes them: ``[B, C, H, W]``, ``[B, T]`` or ``[B, D]``."""
    if isinstance(model, ImageModelConfig):
        channels = data.shape[0] if len(data.shape) == 3 else 1
        return (torch.rand(batch, channels, model.image_size, model.image_size) < 0.2).float()
    if isinstance(model, VectorModelConfig):
        return torch.rand(batch, *data.shape).round()  # of any kind of values
    length = min(TYPICAL_WORDS, data.shape[0] - 2)
    x = torch.randint(END + 1, data.vocabulary, (batch, length + 2))
    x[:, 0], x[:, -1] = START, END
    return x
