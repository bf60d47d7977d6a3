"""The one exception that a person at the command line is meant to see, and how a command begins and ends."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence


def printable(text: str) -> str:
    """Text of one line, with what cannot be printed as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(Exception):
    """Something the user can put right; printed as one line, exit status 2.

    The message says what is wrong and what to do about it. What cannot be printed, as in a name that it quotes, is
    written as an escape.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


class Stopped(Exception):
    """The command was asked to stop by a signal, and did in good order."""

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.signal = signal


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command.

    Refused are ``--option=--``, which ``argparse`` takes for a list whatever the option, and bytes that are no text, as
    names of files may hold: nothing that is said of them could be printed or stored.
    """
    for word in sys.argv[1:] if argv is None else argv:
        option, _, value = word.partition("=")
        if option.startswith("-") and value == "--":
            parser.error(f"argument {option}: expected one argument")
        if not word.isascii() and word != word.encode(errors="replace").decode():
            parser.error(f"{ascii(word)} is no text in UTF-8: rename what it names")
    return parser.parse_args(argv)


def exit_status(command: Callable[[], int], kept: str) -> int:
    """The command's own status; 2 after a ``UserError``, or where a file cannot be read or written; after ^C 130, after
    other signals likewise 128 more than their number, with a line on what is ``kept``."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads on, as after "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says of it
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {UserError(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"stopped: {stopped}; {kept}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        return 130
