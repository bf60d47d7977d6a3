"""Faults to inject into a run of the toy benchmark: each a context manager within which something goes wrong."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.experiment import cell_folder as store
from bench.experiment.cell_folder import CellFolder
from bench.training import registry
from bench.training.checkpoint import load
from bench.training.trainer import Trainer

METHODS = "vae,beta_vae"


@dataclass
class Place:
    """Where a fault strikes: the output folder holds ``vae``, finished, and ``beta_vae`` in the state asked for."""

    out: Path
    data: Path  # the prepared arrays
    arguments: list[str] = field(default_factory=list)

    def cell(self, method: str = "beta_vae") -> CellFolder:
        return next(
            CellFolder(path) for path in (self.out / "runs").glob("*/*/*/seed-*") if path.parent.name.startswith(method)
        )

    @property
    def folder(self) -> Path:
        return self.cell().path


Fault = Callable[[Place], AbstractContextManager[Any]]


# -- of the disk -------------------------------------------------------------------------------------------------


def refused_write(name: str, code: int, nth: int = 1) -> Fault:
    """From the ``nth`` time on that a file whose path matches ``name`` is written, the system refuses to."""

    @contextmanager
    def fault(place: Place) -> Iterator[None]:
        write, left = store._ErrorTrackingFile.write, [nth]

        def refuse(self: Any, data: Any) -> int:
            if re.search(rf"/\.?{name}\.[^/]*unfinished$", os.readlink(f"/proc/self/fd/{self.fileno()}")):
                left[0] -= 1
                if left[0] <= 0:
                    self.error = OSError(code, os.strerror(code))
                    raise self.error
            return write(self, data)

        with patch.object(store._ErrorTrackingFile, "write", refuse):
            yield

    return fault


def refused_name(name: str, code: int) -> Fault:
    """A file of that name cannot be put in its place."""

    @contextmanager
    def fault(place: Place) -> Iterator[None]:
        rename = os.replace

        def refuse(source: Any, target: Any) -> None:
            if re.fullmatch(name, Path(target).name):
                raise OSError(code, os.strerror(code), str(target))
            rename(source, target)

        with patch("os.replace", refuse):
            yield

    return fault


def refused_file(code: int) -> Fault:
    """No file can be made at all, once the run has begun."""

    @contextmanager
    def fault(place: Place) -> Iterator[None]:
        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(code, os.strerror(code))

        with patch("bench.experiment.cell_folder.tempfile.mkstemp", refuse):
            yield

    return fault


# -- in the course of a run --------------------------------------------------------------------------------------

#: What to wrap for something to happen at a moment: before it, at the call of that number.
MOMENTS = {
    "planning": ("bench.experiment.plan.plan", 1),
    "the start of training": ("bench.training.trainer.Trainer.run", 1),
    "training": ("bench.training.trainer.Trainer.end_epoch", 2),
    "a checkpoint": ("bench.training.checkpoint.save_last", 2),
    "evaluation": ("bench.experiment.worker.evaluate", 1),
    "storing an evaluation": ("bench.experiment.worker.store_evaluation", 1),
    "report": ("bench.reporting.report.build", 1),
}


def at(moment: str, act: Callable[[Place], Any], undo: Callable[[Place], Any] = lambda place: None) -> Fault:
    """At a moment of the run ``act``; behind it ``undo``."""

    @contextmanager
    def fault(place: Place) -> Iterator[None]:
        target, nth = MOMENTS[moment]
        owner, name = _resolve(target)
        whole, calls = getattr(owner, name), [0]

        def wrapped(*arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == nth:
                act(place)
            return whole(*arguments, **named)

        with patch.object(owner, name, wrapped):
            yield
        assert calls[0] >= nth, f"{moment} never came"
        undo(place)

    return fault


def _resolve(target: str) -> tuple[Any, str]:
    path, name = target.rsplit(".", 1)
    return (Trainer, name) if path == "bench.training.trainer.Trainer" else (__import__(path, fromlist=[name]), name)


def fails(error: Exception) -> Callable[[Place], Any]:
    def act(place: Place) -> None:
        raise error

    return act


def move(what: Callable[[Place], Path]) -> tuple[Callable[[Place], Any], Callable[[Place], Any]]:
    """Move something away, and bring it back in place of what came there meanwhile."""
    moved: list[Path] = []

    def act(place: Place) -> None:
        path = what(place)
        moved[:] = [path, path.with_name(f"elsewhere-{path.name}")]
        path.rename(moved[1])

    def undo(place: Place) -> None:
        if moved[0].exists():
            shutil.rmtree(moved[0]) if moved[0].is_dir() else moved[0].unlink()
        moved[1].rename(moved[0])

    return act, undo


def remove(what: Callable[[Place], Path]) -> Callable[[Place], Any]:
    return lambda place: shutil.rmtree(what(place))


def raising(target: str, error: Callable[[], BaseException]) -> Fault:
    """``module.function`` or a method of ``Trainer`` raises whenever it is called."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise error()

    @contextmanager
    def fault(place: Place) -> Iterator[None]:
        owner, name = _resolve(target)
        with patch.object(owner, name, refuse):
            yield

    return fault


def hook(name: str, body: Callable[..., Any]) -> Fault:
    """A hook of ``beta_vae`` is another one."""

    @contextmanager
    def fault(place: Place) -> Iterator[None]:
        from bench.training.guard import guard

        cls = registry.method("beta_vae")
        before = vars(cls).get(name)
        setattr(cls, name, body)
        guard(cls)
        try:
            yield
        finally:
            delattr(cls, name) if before is None else setattr(cls, name, before)

    return fault


def not_a_number(*_: Any, **__: Any) -> torch.Tensor:
    return torch.tensor(float("nan"), requires_grad=True)


def raise_(*_: Any, **__: Any) -> Any:
    raise FloatingPointError("out of numbers")


# -- of what is stored -------------------------------------------------------------------------------------------


def stored(act: Callable[[Place], Any], undo: Callable[[Place], Any] = lambda place: None) -> Fault:
    """Something was done to the folder before the run."""

    @contextmanager
    def fault(place: Place) -> Iterator[None]:
        act(place)
        yield
        undo(place)

    return fault


def content(name: str, data: bytes) -> Callable[[Place], Any]:
    return lambda place: (place.folder / name).write_bytes(data)


def torn(*names: str) -> Callable[[Place], Any]:
    def act(place: Place) -> None:
        for name in names:
            path = place.folder / name
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return act


def state(*names: str, **changes: Any) -> Callable[[Place], Any]:
    """Other entries in checkpoints."""

    def act(place: Place) -> None:
        for name in names:
            path = place.folder / name
            torch.save(load(path, "cpu") | changes, path)

    return act


def gone(*names: str) -> Callable[[Place], Any]:
    def act(place: Place) -> None:
        for name in names:
            (place.folder / name).unlink()

    return act


def loop(name: str) -> Callable[[Place], Any]:
    """A link to itself in place of a file."""

    def act(place: Place) -> None:
        gone(name)(place)
        (place.folder / name).symlink_to(name)

    return act


def in_the_way(name: str) -> tuple[Callable[[Place], Any], Callable[[Place], Any]]:
    """A folder where a file of the cell belongs."""

    def act(place: Place) -> None:
        path = place.folder / name
        path.unlink(missing_ok=True)
        (path / "of somebody").mkdir(parents=True)

    def undo(place: Place) -> None:
        if (place.folder / name).is_dir():
            shutil.rmtree(place.folder / name)

    return act, undo


FULL = errno.ENOSPC
