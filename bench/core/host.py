"""The process in which this package runs: what is restored for a caller, and work in a process of its own."""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TypeVar

from bench.core.errors import error_summary

T = TypeVar("T")

#: Held while the state of the process is changed for a short time; two calls would restore each other's changes.
LOCK = threading.RLock()


@contextmanager
def environment(**settings: str) -> Iterator[None]:
    """Set environment variables; restore the whole environment on exit."""
    before = dict(os.environ)
    os.environ |= settings
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ |= before


@contextmanager
def unchanged_process(**variables: str) -> Iterator[None]:
    """Restore what libraries change when they are imported or used.

    That is the environment, warning filters, the exception hook, signal handlers, the fault handler and the state of
    ``random``. ``variables`` of the environment are set within the context.
    """
    hook, numbers, faults = sys.excepthook, random.getstate(), faulthandler.is_enabled()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        with environment(**variables), warnings.catch_warnings():
            yield
    finally:
        sys.excepthook = hook
        random.setstate(numbers)
        if not faults:
            faulthandler.disable()
        for number, handler in handlers.items() if threading.current_thread() is threading.main_thread() else ():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def run_in_subprocess(function: Callable[..., T], *args: object) -> T:
    """Return ``function(*args)``, computed in a new process; raise its exception here.

    Unlike the processes of ``multiprocessing``, the new one does not import the caller's main script, which therefore
    needs no ``__main__`` guard. The function belongs to an importable module.
    """
    command = [sys.executable, "-P", "-c", "from bench.core.host import serve; serve()"]
    path = {"PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)}
    call = pickle.dumps((function, args))
    process = subprocess.run(command, input=call, stdout=subprocess.PIPE, env=os.environ | path)
    if process.returncode or not process.stdout:
        raise RuntimeError(f"the process of {function.__name__} ended with status {process.returncode}")
    result, error, trace = pickle.loads(process.stdout)
    if error is not None:
        raise error from RuntimeError(f"in the new process:\n{trace}")
    return result


def serve() -> None:
    """Run the call on standard input; write its result, its exception and the traceback to standard output."""
    with redirect_stdout(sys.stderr):  # what the function prints must not mix with its result
        try:
            function, args = pickle.load(sys.stdin.buffer)
            answer = pickle.dumps((function(*args), None, ""))
        except KeyboardInterrupt:  # of the terminal, which interrupts the caller, too
            sys.exit(130)
        except Exception as error:
            trace = traceback.format_exc()
            try:
                answer = pickle.dumps((None, error, trace))
                pickle.loads(answer)
            except Exception:  # an exception that cannot be pickled
                answer = pickle.dumps((None, RuntimeError(error_summary(error)), trace))
    sys.stdout.buffer.write(answer)
