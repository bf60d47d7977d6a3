"""Downloads: whatever a server does, the published file comes or one line says why not; and it comes once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data import download as _download
from bench.data.cache import cached
from bench.data.download import download, git_blob_sha1

FILE = np.random.default_rng(0).bytes(300_000)
BLOB = git_blob_sha1(FILE)


class Site(ThreadingHTTPServer):
    """A server on this machine. ``pages``: what answers by path; ``asked``: the addresses asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Callable[[Handler], object]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # who asked has gone


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        page = self.server.pages.get(self.path.partition("?")[0])
        self.send(b"not here", status=404) if page is None else page(self)

    def send(self, content: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def send_for_ever(self, chunk: bytes, every: float = 0.0) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(chunk)
            time.sleep(every)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = Site()
    yield server
    server.shutdown()
    server.server_close()


def fetch(url: str, cache: Path) -> Path:
    return download(cache / "set-train.txt", url, BLOB, "set", None, "Put it into DATA_DIR/set/")


def refusal(url: str, cache: Path) -> str:
    """What the user is told; nothing is left in the cache."""
    with pytest.raises(UserError) as error:
        fetch(url, cache)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"no set: no data directory given, and downloading {url} failed: ")
    assert message.endswith(". Put it into DATA_DIR/set/")
    assert [path.name for path in cache.iterdir()] == []
    return message


# ---- what a server may do


def test_the_file_comes(site, tmp_path):
    site.pages["/file"] = lambda handler: handler.send(FILE)
    assert fetch(f"{site.url}/file", tmp_path / "cache").read_bytes() == FILE
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["set-train.txt"]


def test_a_redirect_is_followed(site, tmp_path):
    site.pages["/file"] = lambda handler: handler.send(FILE)
    site.pages["/moved"] = lambda handler: handler.send(b"", status=302, Location="/file?x=1")
    assert fetch(f"{site.url}/moved", tmp_path).read_bytes() == FILE


def test_a_damaged_file_in_the_cache_is_fetched_anew(site, tmp_path):
    site.pages["/file"] = lambda handler: handler.send(FILE)
    (tmp_path / "set-train.txt").write_bytes(FILE[:-1])
    assert fetch(f"{site.url}/file", tmp_path).read_bytes() == FILE and site.asked == ["/file"]


def test_a_transfer_that_breaks_off(site, tmp_path):
    site.pages["/file"] = lambda handler: handler.send(FILE[:100_000], length=len(FILE))
    assert "it broke off after 100,000 bytes" in refusal(f"{site.url}/file", tmp_path)


def test_another_file(site, tmp_path):
    site.pages["/file"] = lambda handler: handler.send(FILE[::-1])
    message = refusal(f"{site.url}/file", tmp_path)
    assert f"what came from {site.url}/file is not the published file (git blob" in message


@pytest.mark.parametrize("headers", [{"Content_Type": "text/html; charset=utf-8"}, {}])
def test_a_login_page(site, headers, tmp_path):
    site.pages["/login"] = lambda handler: handler.send(b"\n<!DOCTYPE HTML><html>Who are you?</html>", **headers)
    site.pages["/file"] = lambda handler: handler.send(b"", status=302, Location=f"{site.url}/login?token=secret")
    message = refusal(f"{site.url}/file", tmp_path)
    assert f"a web page came instead, from {site.url}/login; the network may want a login" in message
    assert "secret" not in message


def test_an_error_of_the_server(site, tmp_path):
    assert f"{site.url}/gone answered 404 Not Found" in refusal(f"{site.url}/gone", tmp_path)


def test_redirects_without_end(site, tmp_path):
    site.pages["/file"] = lambda handler: handler.send(b"", status=302, Location="/file")
    assert "it was redirected 10 times" in refusal(f"{site.url}/file", tmp_path)


def test_a_redirect_to_a_file_of_this_machine(site, tmp_path):
    site.pages["/file"] = lambda handler: handler.send(b"", status=302, Location="file:///etc/hostname")
    assert "No connection adapters were found" in refusal(f"{site.url}/file", tmp_path)


def test_no_network(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_port
    assert "refused" in refusal(f"http://127.0.0.1:{port}/file", tmp_path)


def test_a_silent_server(site, tmp_path, monkeypatch):
    monkeypatch.setattr(_download, "SILENCE", 0.3)
    site.pages["/file"] = lambda handler: time.sleep(3)
    began = time.monotonic()
    assert "timed out" in refusal(f"{site.url}/file", tmp_path)
    assert time.monotonic() - began < 2


def test_a_server_that_drips(site, tmp_path, monkeypatch):
    """Each byte is in time; the whole is not."""
    monkeypatch.setattr(_download, "DEADLINE", 1.0)
    site.pages["/file"] = lambda handler: handler.send_for_ever(b"x", every=0.05)
    began = time.monotonic()
    assert "after 1 seconds it was not complete" in refusal(f"{site.url}/file", tmp_path)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("length", [None, 10**12])
def test_a_server_that_sends_without_end(site, length, tmp_path):
    """It is stopped at the greatest size, and goes to disk and not into memory."""
    answer = {
        None: lambda handler: handler.send_for_ever(bytes(1 << 16)),
        10**12: lambda handler: handler.send(b"x", length=length),
    }
    site.pages["/file"] = answer[length]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"{site.url}/file sends more than {_download.MOST:,} bytes" in refusal(f"{site.url}/file", tmp_path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < _download.MOST // 4


def test_a_redirect_with_an_endless_body(site, tmp_path):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", "/file")
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))

    site.pages["/moved"], site.pages["/file"] = answer, lambda handler: handler.send(FILE)
    assert fetch(f"{site.url}/moved", tmp_path).read_bytes() == FILE


def test_a_proxy_is_asked(site, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", site.url)
    address = "http://files.example/set/train.txt"
    site.pages[address] = lambda handler: handler.send(FILE)
    assert fetch(address, tmp_path).read_bytes() == FILE and site.asked == [address]
    monkeypatch.setenv("no_proxy", "files.example")
    (tmp_path / "set-train.txt").unlink()
    refusal(address, tmp_path)
    assert site.asked == [address]


# ---- the cache


def test_a_full_disk(site, tmp_path):
    """The limit on the size of a file stands in for it: what is written beyond it fails."""
    site.pages["/file"] = lambda handler: handler.send(FILE)
    code = (
        "import resource, signal, sys; from pathlib import Path; from tests.test_downloads import fetch\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "fetch(sys.argv[1], Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{site.url}/file", str(tmp_path / "cache")], capture_output=True, text=True
    )
    assert "UserError: cannot write to the data cache" in done.stderr and "File too large" in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_is_a_file(site, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cannot write to the data cache .*; point BENCH_CACHE at a folder"):
        fetch(f"{site.url}/file", tmp_path / "cache")
    assert site.asked == []


def test_a_cache_that_vanishes(site, tmp_path):
    """While the file comes: it is gone with the folder, and the next try makes both."""

    def answer(handler):
        for path in (tmp_path / "cache").iterdir():
            path.unlink()
        (tmp_path / "cache").rmdir()
        handler.send(FILE)

    site.pages["/file"] = answer
    with pytest.raises(UserError, match="cannot write to the data cache"):
        fetch(f"{site.url}/file", tmp_path / "cache")
    site.pages["/file"] = lambda handler: handler.send(FILE)
    assert fetch(f"{site.url}/file", tmp_path / "cache").read_bytes() == FILE


def test_what_a_killed_process_left_is_removed(site, tmp_path):
    begun = threading.Event()

    def answer(handler):
        handler.send(FILE[:100_000], length=len(FILE))
        begun.set()
        time.sleep(60)

    site.pages["/file"] = answer
    process = multiprocessing.get_context("spawn").Process(target=fetch, args=(f"{site.url}/file", tmp_path))
    process.start()
    assert begun.wait(60)
    while not any(path.stat().st_size for path in tmp_path.glob("*.unfinished")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert any(path.name.endswith(".unfinished") for path in tmp_path.iterdir())
    site.pages["/file"] = lambda handler: handler.send(FILE)
    fetch(f"{site.url}/file", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set-train.txt"]


# ---- several at once


def build(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Arrays of a small set; ``folder`` counts how often they were made."""
    time.sleep(0.5)
    (folder / f"built-{os.getpid()}-{threading.get_ident()}").touch()
    fields = {"name": "set", "title": "set", "modality": "image", "unit": "nats", "shape": (2, 2), "source": "here"}
    return fields, {split: np.zeros((3, 2, 2), np.float32) for split in ("train", "val", "test")}


def fetch_and_build(url: str, folder: Path) -> str:
    fetch(url, folder / "cache")
    return cached(folder / "cache", "set", lambda: build(folder)).info.fingerprint


def work(url: str, folder: Path, ready, results) -> None:
    ready.wait()
    results.put(fetch_and_build(url, folder))


def slowly(handler: Handler) -> None:
    time.sleep(0.5)
    handler.send(FILE)


def test_of_several_processes_one_downloads_and_builds(site, tmp_path):
    site.pages["/file"] = slowly
    spawn = multiprocessing.get_context("spawn")
    ready, results = spawn.Barrier(4), spawn.Queue()
    processes = [spawn.Process(target=work, args=(f"{site.url}/file", tmp_path, ready, results)) for _ in range(4)]
    for process in processes:
        process.start()
    fingerprints = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(fingerprints) == 1 and site.asked == ["/file"]
    assert len(list(tmp_path.glob("built-*"))) == 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["set-train.txt", "set.json", "set.npz"]


def test_of_several_threads_one_downloads_and_builds(site, tmp_path):
    site.pages["/file"] = slowly
    with ThreadPoolExecutor(4) as threads:
        fingerprints = set(threads.map(lambda _: fetch_and_build(f"{site.url}/file", tmp_path), range(4)))
    assert len(fingerprints) == 1 and site.asked == ["/file"]
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_who_waits_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.data.cache.PATIENCE", 0.1)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: cached(tmp_path, "set", lambda: build(tmp_path)), range(2)))
    assert capsys.readouterr().err == "waiting for another process that prepares set.npz\n"


def test_a_builder_that_fails_lets_the_next_one_build(tmp_path):
    def fail():
        raise MemoryError

    with pytest.raises(UserError, match="not enough memory to prepare set"):
        cached(tmp_path, "set", fail)
    assert cached(tmp_path, "set", lambda: build(tmp_path)).path.exists()
