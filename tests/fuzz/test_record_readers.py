"""Whatever lies in a cell's folder is read, or left out in one line, in bounds of time and memory."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

import bench
from bench import checkpoint, report
from bench.cell import run_cell
from bench.datasets import Prepared, cached
from bench.errors import UserError
from bench.reporting import cells, examples, figures, texts
from bench.reporting.frame import cells_frame
from bench.store import CellFolder
from tests.conftest import TOY, planner, tasks
from tests.fuzz.inputs import FAST, SLOW, apart, mutation, survey

FIXTURES = Path(__file__).parents[1] / "fixtures"
Read = Callable[[bytes], object]

# ---- JSON that is whole and says something else


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, -(10**400), 0.5, -0.0, 1e-300, 1e50, 1e308, "1", "", "\0"),
    *(
        "\ud800",
        "\u202e",
        "a\nb",
        "<script>",
        "{{ 7 * 7 }}",
        "${x}$",
        "../../x",
        "x" * 10_000,
        "ok",
        "failed",
        "running",
    ),
    *([], {}, [[]], [{}], {"": {}}, [None], list(range(50)), {"nll": "x"}, [["a"], 1], "vae", "cuda"),
]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The way to every value within one, by keys and indices."""
    yield path
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*path, key))


def altered(valid: bytes, seed: int, index: int) -> bytes:
    """A record of which one to three values are others, gone, elsewhere or deep within."""
    rng = random.Random(f"record {seed} {index}")
    record = {"": json.loads(valid)}  # so that the whole of it can be replaced
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *way, key = rng.choice([path for path in places(record) if path])
        parent: Any = record
        for each in way:
            parent = parent[each]
        match rng.randrange(6):
            case 0 if len(way):
                del parent[key]
            case 1:
                parent[key] = copy.deepcopy(record[""])
            case 2:
                for _ in range(rng.choice((1, 30, 300))):
                    parent[key] = rng.choice(([parent[key]], {"a": parent[key]}))
            case 3 if isinstance(parent, dict) and len(way):
                parent[str(rng.choice(VALUES))[:100]] = parent.pop(key)
            case _:
                parent[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(record[""]).encode()


def records(valid: bytes, count: int, seed: int) -> list[bytes]:
    """Half are altered records; ``survey`` mutates bytes for the rest."""
    return [altered(valid, seed, index) for index in range(count // 2)]


def odd_json() -> list[bytes]:
    return [
        b"\xef\xbb\xbf{}",
        b'{"schema_version": 1, "schema_version": "1"}',
        b'{"metrics": NaN}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"schema_version": ' + b"9" * 5000 + b"}",
        b"[" + b"{}," * 2_000_000 + b"{}]",
        b'{"\\ud800": 1}',
        b" " * (17 << 20),
    ]


# ---- readers: each a folder -> a valid file, and what reads another one


def finished(folder: Path, name: str = "cells") -> Path:
    """A finished cell of the fixtures in a folder of its own."""
    shutil.copytree(FIXTURES / name, folder / "out", dirs_exist_ok=True)
    return next((folder / "out").glob("runs/*/*/vae/seed-0-*"))


def record_of(file: str) -> Callable[[Path], tuple[bytes, Read]]:
    def reader(folder: Path) -> tuple[bytes, Read]:
        cell = finished(folder)
        valid = (cell / file).read_bytes()

        def read(content: bytes) -> None:
            (cell / file).write_bytes(content)
            try:
                cells.read(CellFolder(cell))
            except ValueError as error:
                raise UserError(error) from error

        return valid, read

    return reader


def config(folder: Path) -> tuple[bytes, Read]:
    return record_of("config.json")(folder)


def result(folder: Path) -> tuple[bytes, Read]:
    return record_of("result.json")(folder)


def evaluation(folder: Path) -> tuple[bytes, Read]:
    return record_of("evaluation.json")(folder)


def history(folder: Path) -> tuple[bytes, Read]:
    return record_of("history.jsonl")(folder)


def told(lines: list[str]) -> None:
    if lines:
        raise UserError(lines[0])


def sentences(folder: Path) -> tuple[bytes, Read]:
    cell = finished(folder, "text-cells")
    frame = cells_frame([cells.read(CellFolder(cell))])

    def read(content: bytes) -> None:
        (cell / "texts.json").write_bytes(content)
        lines: list[str] = []
        page = texts.page("title", texts.read(frame, lines.append))
        (page or "").encode()
        told(lines)

    return (cell / "texts.json").read_bytes(), read


def arrays(folder: Path) -> tuple[bytes, Read]:
    cell = finished(folder)
    frame = cells_frame([cells.read(CellFolder(cell))])
    file = io.BytesIO()
    with np.load(cell / "arrays.npz") as stored:
        means = np.linspace(-1, 1, 20, dtype=np.float32).reshape(10, 2)
        np.savez_compressed(file, **stored, means=means, true_means=means[:5])

    def read(content: bytes) -> None:
        (cell / "arrays.npz").write_bytes(content)
        lines: list[str] = []
        with matplotlib.rc_context({"backend": "agg"}):
            found = figures._arrays(frame, lines.append)
            for kind, first in (("reconstructions", "originals"), ("samples", None)):
                figures.grid(found, kind, first)
            figures.lag.scatter(found, figures.looks_of(frame))
        told(lines)

    return file.getvalue(), read


def per_example(folder: Path) -> tuple[bytes, Read]:
    cell = finished(folder)
    metrics = (CellFolder(cell).evaluation() or {})["metrics"]

    def read(content: bytes) -> None:
        (cell / examples.FILE).write_bytes(content)
        found = examples.read(cell, metrics)
        told([found.problem] if found.problem else [])

    return (cell / examples.FILE).read_bytes(), read


def trained_cell(folder: Path) -> Path:
    """A cell trained on a few images, with its checkpoints."""

    def build() -> tuple[dict, dict[str, np.ndarray]]:
        images = np.random.default_rng(0).random((60, 28, 28)).astype(np.float32)
        about = {"name": "toy", "title": "toy", "modality": "image", "unit": "nats per image", "shape": (28, 28)}
        return about | {"source": "made up"}, {"train": images[:40], "val": images[40:50], "test": images[50:]}

    data: Prepared = cached(folder / "cache", "toy", build)
    cell = planner(data, TOY, folder / "out")("vae")
    run_cell(tasks(data)(cell))
    return cell.folder.path


def best_weights(folder: Path) -> tuple[bytes, Read]:
    cell = trained_cell(folder)

    def read(content: bytes) -> None:
        (cell / "best.pt").write_bytes(content)
        bench.load(cell)

    return (cell / "best.pt").read_bytes(), read


def last_state(folder: Path) -> tuple[bytes, Read]:
    cell = trained_cell(folder)
    valid = (cell / "last.pt").read_bytes()
    (cell / "previous.pt").unlink(missing_ok=True)

    def read(content: bytes) -> None:
        (cell / "last.pt").write_bytes(content)
        states = [*checkpoint.states(cell, "cpu")]
        for aside in cell.glob("superseded-*"):
            aside.unlink()
        told([] if states else ["last.pt was put aside"])

    return valid, read


# ---- corner cases of binary files; made by functions, since making them takes the memory that reading must not


def npz(**stored: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **stored)  # type: ignore[arg-type]
    return file.getvalue()


def npz_claiming(shape: str, dtype: str = "|u1") -> bytes:
    """An archive of one array, whose header claims a shape."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("samples.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode() + b"\0" * 16)
    return file.getvalue()


def odd_arrays() -> list[bytes]:
    return [
        npz_claiming("(4096, 65536, 4096)"),
        npz_claiming("(4611686018427387904, 4, 4)"),
        npz_claiming("(-1, 4, 4)"),
        npz_claiming("(1, 2, 2)", "|O"),
        npz(samples=np.zeros((2, 20_000, 2000), np.uint8)),
        npz(samples=np.zeros((500, 1000, 1000), np.uint8)),  # half a gigabyte of nothing
        npz(samples=np.zeros((0, 7, 7), np.uint8)),
        npz(samples=np.zeros((3, 0, 7), np.uint8)),
        npz(samples=np.array([[["a"]]])),
        npz(samples=np.array([[[{"a": 1}]]], object)),
        npz(samples=np.full((2, 7, 7), np.nan), means=np.full((3, 2), np.inf), true_means=np.zeros((5, 1))),
        npz(originals=np.zeros((3, 9, 9), np.uint8), reconstructions=np.zeros((1, 7, 7), np.uint8)),
        npz(reconstructions=np.zeros((3, 7, 7), np.uint8)),
        npz(means=np.zeros((3, 900), np.complex128), true_means=np.zeros((3, 900), np.complex128)),
    ]


def table(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def odd_examples() -> list[bytes]:
    return [
        table(index=[0], nll=["x"]),
        table(index=[None], nll=[None]),
        table(index=[0.5, 1e300], nll=[1.0, 2.0]),
        table(index=[[0]], nll=[[[1.0]]]),
        table(nll=[1.0]),
        table(index=np.zeros(30_000_000, np.int8), nll=np.zeros(30_000_000)),  # a few kilobytes
        table(index=[0, 1], nll=[1e300, -1e300]),
        table(index=pyarrow.array([0], pyarrow.uint64()), nll=pyarrow.array(["1"]).dictionary_encode()),
        table(index=[0], nll=pyarrow.array([None], pyarrow.list_(pyarrow.float64()))),
    ]


class Harmful:
    def __reduce__(self):
        return open, ("executed", "w")


def saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def swollen(valid: bytes) -> bytes:
    """A checkpoint whose members are deflated, and one of them a gigabyte of nothing."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1 << 30) if name.endswith("/data/0") else old.read(name))
    return file.getvalue()


def odd_checkpoints() -> list[bytes]:
    return [
        saved(Harmful()),
        saved({"model": Harmful(), "method": {}}),
        saved({"model": {}, "method": {}}),
        saved({"model": None, "method": None, "update": "x"}),
        saved({"model": {"weight": torch.zeros(1).expand(10**12)}, "method": {}}),
        saved([1, 2]),
        saved(None),
        saved({"method": {}}),
        saved({1: {2: 3}}),
    ]


def odd_lines() -> list[bytes]:
    lines = [b'{"elbo": "x"}\n', b'{"update": 1}\n\n\n', b"{}\r\n{}\r\n", b'{"kl": 1e400}\n', b"\xff\n"]
    return [b"{}\n" * 200_000, *lines]


RECORDS = (config, result, evaluation, sentences)
OTHERS: dict[Callable, Callable[[], list[bytes]]] = {
    **{history: odd_lines, arrays: odd_arrays, per_example: odd_examples},
    **{best_weights: odd_checkpoints, last_state: odd_checkpoints},
}


def cases(reader: Callable, count: int, seed: int, folder: Path) -> Sequence[bytes]:
    """Corner cases of a reader, and altered records where it reads some."""
    if reader in OTHERS:
        return OTHERS[reader]()
    valid, _ = reader(folder / "valid")
    return [*odd_json(), *records(valid, count - len(odd_json()), seed)]


@pytest.fixture(scope="module")
def process():
    with apart() as process:
        yield process


@pytest.mark.parametrize("reader", [*RECORDS, *OTHERS])
def test_a_reader_of_records_survives(reader, process, tmp_path):
    tally = survey(reader, FAST, tmp_path, extra=cases(reader, FAST, 0, tmp_path), process=process)
    assert tally.read + tally.refused == FAST and tally.refused


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", [*RECORDS, *OTHERS])
def test_a_reader_of_records_survives_much(reader, tmp_path):
    tally = survey(reader, SLOW, tmp_path, seed=1, extra=cases(reader, SLOW, 1, tmp_path))
    assert tally.read and tally.refused > SLOW // 10


# ---- the whole report


FILES = ("config.json", "result.json", "evaluation.json", "history.jsonl", "arrays.npz", "examples.parquet")


def whole_report(folder: Path) -> tuple[bytes, Read]:
    """A report on three cells, in one of which one file, by turns, is the input. Figures have one format here."""
    figures.save = partial(figures.save, suffixes=["svg"])  # in a process of its own
    finished(folder, "text-cells")
    out = folder / "out"
    for method in out.glob("runs/*/*/*"):
        if method.name not in ("vae", "aggressive"):
            shutil.rmtree(method)
    shutil.rmtree(next(out.glob("runs/*/*/aggressive/seed-1-*")))
    cell = next(out.glob("runs/*/*/vae/seed-0-*"))
    kept = {file.name: file.read_bytes() for file in cell.iterdir()}
    turn = iter(range(10**9))

    def read(content: bytes) -> None:
        index = next(turn)
        name = [*kept][index % len(kept)]
        valid, is_json = kept[name], name.endswith("json")
        changed = altered(valid, 2, index) if is_json and index % 2 else mutation(valid, 2, index)
        for file, whole in kept.items():
            (cell / file).write_bytes(changed if file == name and content else whole)
        lines: list[str] = []
        report.build(out, log=lines.append, force=True)
        assert all(len(line.splitlines()) == 1 and line.isprintable() for line in lines), lines
        assert (out / "report.html").stat().st_size > 10_000
        told(lines)

    return b"", read


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_report_survives_whatever_one_of_its_cells_holds(tmp_path):
    count = SLOW // 20
    assert survey(whole_report, count, tmp_path, extra=[b"x"] * count).refused > count // 4
