"""Downloads from a local server: only the published file is stored, and an error says what to do."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.data.datasets import mnist, omniglot, yahoo
from bench.data.download import download
from tests.data.helpers import file_names

FILE = bytes(range(256)) * 1000
BLOB = "ed99543dba99b885850a5e5a6bf95545aaa9754c"  # by git hash-object
SHA256 = "b57b64b198d5d59ce5a22a9b9f25e72a7d081476d432051aa923f3dbebb90934"  # by sha256sum


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = {"/file": FILE, "/other": b"<html>login</html>", "/broken": FILE[:1000]}.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(FILE) if self.path == "/broken" else len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requested, server.url = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(url: str, cache: Path, digest: str = BLOB) -> Path:
    return download(cache / "set-train.txt", url, digest, "set", None, "Put it into DATA_DIR/set/")


@pytest.mark.parametrize("digest", [BLOB, SHA256])
def test_file_is_downloaded_once(digest, server, tmp_path):
    for _ in range(2):
        assert fetch(f"{server.url}/moved", tmp_path / "cache", digest).read_bytes() == FILE
    assert server.requested == ["/moved", "/file"] and file_names(tmp_path / "cache") == ["set-train.txt"]


def test_damaged_file_in_the_cache_is_downloaded_again(server, tmp_path):
    (tmp_path / "set-train.txt").write_bytes(FILE[:-1])
    assert fetch(f"{server.url}/file", tmp_path).read_bytes() == FILE


def test_nothing_else_is_stored(server, tmp_path, subtests):
    cases = [
        ("other", "another file than the published one"),
        ("gone", "404"),
        ("broken", "IncompleteRead"),
        (None, "refused"),
    ]
    for page, message in cases:
        with subtests.test(page=page):
            url = f"{server.url}/{page}"
            if page is None:
                with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
                    url = f"http://127.0.0.1:{closed.server_port}/file"
            with pytest.raises(UserError, match=message) as error:
                fetch(url, tmp_path / "cache")
            assert str(error.value).startswith(f"no set: no data directory given, and downloading {url} failed: ")
            assert str(error.value).endswith(". Put it into DATA_DIR/set/")
            assert file_names(tmp_path / "cache") == []


def test_unwritable_cache(server, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cannot write to the data cache .*; set BENCH_CACHE"):
        fetch(f"{server.url}/file", tmp_path / "cache")


@pytest.mark.parametrize(
    ("module", "files"),
    [
        (yahoo, "train.txt, val.txt, test.txt"),
        (omniglot, "images_background.zip and images_evaluation.zip"),
        (mnist, "train-images-idx3-ubyte.gz, "),
    ],
)
def test_error_says_where_to_put_the_files(module, files, server, tmp_path, monkeypatch):
    name, url = module.__name__.rpartition(".")[2], f"{server.url}/gone"
    monkeypatch.setattr(omniglot, "CHARDATA_URL", url)
    monkeypatch.setitem(yahoo.PUBLISHED.__dict__, "urls", dict.fromkeys(("train", "val", "test"), url))
    monkeypatch.setitem(mnist.PUBLISHED.__dict__, "url", f"{url}/")
    with pytest.raises(UserError) as error:
        module.prepare(tmp_path / "data", tmp_path / "cache")
    folder = tmp_path / "data" / name
    for part in (f"nothing in {folder}", url, "404", f"DATA_DIR/{name}/", files, "--data-dir", "BENCH_DATA_DIR"):
        assert part in str(error.value)
