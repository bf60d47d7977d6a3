"""Atomic writes, JSON files, safe readers and locks."""

import json
import multiprocessing
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.core.files import StorageError, file_lock, read_arrays, read_bytes, read_json, replace, write_json
from tests.conftest import steady

# ---- writing


@steady
@given(
    st.none() | st.binary(max_size=20),
    st.lists(st.binary(max_size=20), max_size=4),
    st.sampled_from((None, ValueError, MemoryError, OSError, KeyboardInterrupt)),
)
def test_replace_is_atomic(tmp_path_factory, old, pieces, error):
    path = tmp_path_factory.mktemp("files") / "file"
    if old is not None:
        path.write_bytes(old)

    def write(file):
        for piece in pieces:
            file.write(piece)
        if error:
            raise error("while writing")

    if error:
        with pytest.raises(StorageError if error is OSError else error):
            replace(path, write)
    else:
        replace(path, write)
    assert (path.read_bytes() if path.exists() else None) == (old if error else b"".join(pieces))
    assert {file.name for file in path.parent.iterdir()} <= {"file"}


def test_json_files(tmp_path):
    path = tmp_path / "folder" / "record.json"
    write_json(path, {"é": [1.5], "t": (1,)})
    assert read_json(path) == {"é": [1.5], "t": [1]} == json.loads(path.read_text("utf-8"))
    assert read_json(tmp_path / "missing.json", missing_ok=True) is None
    for content in (b"{", b"\xff", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_json(path)


# ---- reading


def test_unreadable_file_of_the_user(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file") == b"12345"
    with pytest.raises(UserError, match="cannot read .*missing: No such file"):
        read_bytes(tmp_path / "missing")


def test_arrays_with_pickles_are_rejected(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez(path, a=np.arange(3), b=np.ones(2))
    assert read_arrays(path, {"a", "c"}).keys() == {"a"} and read_arrays(path).keys() == {"a", "b"}
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(ValueError, match="pickle"):
        read_arrays(path)


# ---- locks


def increment(lock, counter, times):
    for _ in range(times):
        with file_lock(lock, timeout=None):
            counter.write_text(str(int(counter.read_text()) + 1))


def hold(lock, acquired):
    with file_lock(lock):
        acquired.set()
        signal.pause()


def test_processes_exclude_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.core.files.POLL_SECONDS", 0.001)
    lock, counter = tmp_path / ".lock", tmp_path / "counter"
    counter.write_text("0")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=increment, args=(lock, counter, 50)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert counter.read_text() == "150" and not lock.exists()


def test_a_killed_process_releases_its_lock(tmp_path):
    fork, lock = multiprocessing.get_context("fork"), tmp_path / ".lock"
    acquired = fork.Event()
    process = fork.Process(target=hold, args=(lock, acquired))
    process.start()
    assert acquired.wait(120)
    for timeout in (0, 0.1):
        with file_lock(lock, timeout) as locked:
            assert not locked
    process.kill()
    with file_lock(lock, timeout=None) as locked:
        assert locked


def test_lock_survives_file_removal(tmp_path, monkeypatch):
    """The holder removes the file after another process opened it and before that locks it."""
    import fcntl

    path, flock, removed = tmp_path / ".lock", fcntl.flock, []

    def late_flock(descriptor, operation):
        if operation & fcntl.LOCK_EX and not removed:
            removed.append(path.unlink())
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", late_flock)
    with file_lock(path, timeout=5) as locked:
        assert locked and removed and path.exists()


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(ValueError, match="inside"), file_lock(tmp_path / ".lock"):
        raise ValueError("inside")
    with file_lock(tmp_path / ".lock") as locked:
        assert locked
