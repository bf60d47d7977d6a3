"""The process of this package: its environment, its packages, and work in a process of its own."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.core import provenance
from bench.core.cancellation import signal_handlers
from bench.core.errors import UserError
from bench.core.host import environment, run_in_subprocess, unchanged_process
from bench.core.syntax import parse_call


def test_result_and_exception_come_back():
    assert run_in_subprocess(os.path.join, "a", "b") == os.path.join("a", "b")
    with pytest.raises(UserError, match="cannot read '1") as error:
        run_in_subprocess(parse_call, "1+")
    assert "parse_call" in str(error.value.__cause__)
    with pytest.raises(RuntimeError, match="ended with status 3"):
        run_in_subprocess(os._exit, 3)


def test_output_does_not_mix_with_the_result():
    assert run_in_subprocess(print, "text") is None


def interrupt():
    raise KeyboardInterrupt


def test_interrupted_process_prints_no_traceback(capfd):
    with pytest.raises(RuntimeError, match="ended with status 130"):
        run_in_subprocess(interrupt)
    assert capfd.readouterr().err == ""


class TwoArguments(Exception):
    """An exception that can be pickled but not unpickled."""

    def __init__(self, first: str, second: str):
        super().__init__(first)


def fail():
    raise TwoArguments("lost", "words")


def test_exception_that_cannot_be_pickled_keeps_its_text():
    with pytest.raises(RuntimeError, match="TwoArguments: lost"):
        run_in_subprocess(fail)


def test_packages_without_metadata_are_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "not-installed"))
    assert provenance.versions().keys() == {"python", "bench", "numpy"}


def test_environment_and_hooks_are_restored(monkeypatch):
    monkeypatch.setenv("KEPT", "before")
    with unchanged_process(KEPT="within", ADDED="1"):
        assert (os.environ["KEPT"], os.environ["ADDED"]) == ("within", "1")
        sys.excepthook = print
        del os.environ["KEPT"]
    assert os.environ["KEPT"] == "before" and "ADDED" not in os.environ and sys.excepthook is not print
    with pytest.raises(KeyError), environment(KEPT="within"):
        raise KeyError
    assert os.environ["KEPT"] == "before"


def test_calls_in_other_threads_keep_handlers_that_the_program_sets():
    with ThreadPoolExecutor(1) as pool, signal_handlers({}):
        context = unchanged_process()
        pool.submit(context.__enter__).result()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pool.submit(context.__exit__, None, None, None).result()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
