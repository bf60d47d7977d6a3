"""The cache: built once, damaged files are reported or rebuilt."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data import cache
from bench.data.cache import cached, find_by_fingerprint
from bench.data.dataset import SPLITS, DataInfo, fingerprint
from bench.data.registry import data_folder

INFO = DataInfo("toy", "toy", "image", "nats per image", (4, 4), source="here", notes=("note",))
MEANS = np.random.default_rng(0).random((3, 4, 4), np.float32)


def build():
    return INFO, dict.fromkeys(SPLITS, MEANS)


def test_cached_data_is_built_once(tmp_path):
    prepared = cached(tmp_path, "toy", build)
    assert prepared.info.sizes == {"train": 3, "val": 3, "test": 3}
    assert prepared.info.fingerprint == fingerprint(prepared.arrays())
    assert cached(tmp_path, "toy", pytest.fail) == prepared
    assert find_by_fingerprint(prepared.info.fingerprint, tmp_path) == prepared
    assert find_by_fingerprint("other", tmp_path) is None


def test_duplicates_between_splits_are_counted(tmp_path):
    rows = np.arange(20).reshape(10, 2)
    for val, test, note in [
        (rows[4:6], rows[6:], None),
        (rows[3:6], rows[6:], "1 of 3 validation examples also occur in train."),
        (rows[4:6], rows[[0, 3, 3, 9]], "3 of 4 test examples also occur in train."),
        (rows[:1], rows[:1], "1 of 1 validation examples and 1 of 1 test examples also occur in train."),
    ]:
        arrays = {"train": rows[:4], "val": val, "test": test}
        info = cached(tmp_path, f"toy {note}", lambda: (INFO, arrays)).info
        assert info.notes == ("note", *([note] if note else [])) and info.fingerprint == fingerprint(arrays)


def test_user_without_a_home_is_told_to_name_a_cache(monkeypatch, tmp_path):
    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "BENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match="no home folder .*: set BENCH_CACHE"):
        cache.cache_dir()
    monkeypatch.setattr("pooch.os_cache", lambda name: Path("~/.cache") / name)  # as other versions answer
    with pytest.raises(UserError, match="set BENCH_CACHE"):
        cache.cache_dir()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    assert cache.cache_dir() == tmp_path


def test_home_folder_in_the_environment(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name, value in {"HOME": str(tmp_path), "BENCH_CACHE": "~/cache", "BENCH_DATA_DIR": "~/data"}.items():
        monkeypatch.setenv(name, value)
    assert cache.cache_dir() == tmp_path / "cache"
    assert data_folder(None) == data_folder(Path("~/data")) == tmp_path / "data"


def test_fingerprint_depends_on_names_types_shapes_and_values():
    arrays = [{"a": MEANS}, {"b": MEANS}, {"a": MEANS.astype(float)}, {"a": MEANS.reshape(-1)}, {"a": MEANS + 1}]
    assert len({fingerprint(array) for array in arrays}) == len(arrays)
    both = {"a": MEANS, "b": MEANS[0]}
    assert fingerprint(both) == fingerprint(dict(reversed(both.items())))


def test_damaged_record_is_rebuilt(tmp_path, subtests):
    for record in [b"{", b"null", b'{"name": "toy"}', b"\xff"]:
        with subtests.test(record=record):
            prepared = cached(tmp_path, "toy", build)
            prepared.path.with_suffix(".json").write_bytes(record)
            assert cached(tmp_path, "toy", build) == prepared


def test_damaged_arrays_are_reported(tmp_path):
    prepared = cached(tmp_path, "toy", build)
    content = prepared.path.read_bytes()
    for damaged in (b"", b"PK" + bytes(50), content[: len(content) // 2], content[:200] + b"x" + content[201:]):
        prepared.path.write_bytes(damaged)
        with pytest.raises(UserError, match="toy.npz is damaged"):
            prepared.arrays()
    np.savez(prepared.path, **dict.fromkeys(SPLITS, MEANS + 1))
    with pytest.raises(UserError, match="does not match its record"):
        prepared.arrays()


def test_concurrent_builders_wait_for_the_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cache, "MESSAGE_AFTER", 0.05)
    built, waiting = [], threading.Event()

    def slow():
        built.append(waiting.wait(0.5))
        return build()

    with ThreadPoolExecutor(3) as threads:
        results = [*threads.map(lambda _: cached(tmp_path, "toy", slow).info.fingerprint, range(3))]
    assert len(built) == 1 and len({*results}) == 1
    assert "waiting for another process that prepares toy.npz" in capsys.readouterr().err


def test_failed_build_leaves_nothing(tmp_path):
    def fail():
        raise MemoryError

    with pytest.raises(UserError, match="not enough memory to prepare toy"):
        cached(tmp_path, "toy", fail)
    assert [*tmp_path.iterdir()] == []
    assert cached(tmp_path, "toy", build).path.exists()
