"""The command line: ``python -m bench COMMAND``.

A command is a module of this package with a function ``add_parser``. It adds the command's parser and sets two of its
defaults: ``execute``, a function of the parsed arguments that returns the exit status, and ``after_stop``, which the
message after an interruption ends with.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from bench.cli import audit, bundle, compare, diagnose, evaluate, lag, merge, report, run, speed, verify
from bench.cli import list as listing
from bench.cli.study import read_study
from bench.core import __version__
from bench.core.config import suggest
from bench.core.errors import Stopped, UserError
from bench.core.host import unchanged_process
from bench.core.output import output_without_errors

HEADLESS = {"MPLBACKEND": "agg"}  # figures are files; a backend of the user's may not exist here
COMMANDS = (run, report, compare, diagnose, evaluate, audit, verify, bundle, merge, lag, speed, listing)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a ``UserError``: one line with the remedy instead of the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; '{self.prog} --help' describes the arguments")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        parsed, unknown = super().parse_known_args(args, namespace)
        if not unknown and any(action.dest == "study" for action in self._actions) and parsed.study:
            self.set_defaults(**read_study(parsed.study, self))  # of the options that are not given
            parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and unknown[0].startswith("-"):
            option, known = unknown[0].partition("=")[0], {*re.findall(r"--[a-z-]+", self.format_help())}
            raise UserError(f"unknown option '{option}': {suggest(option, known)}")
        if unknown:
            raise UserError(f"'{unknown[0]}' belongs to no option: write --name value, with values joined by commas")
        return parsed, unknown


def parser() -> Parser:
    """Return the parser of every command."""
    p = Parser(
        prog="python -m bench", description="Compare methods against posterior collapse in variational autoencoders."
    )
    p.add_argument("--version", action="version", version=f"posterior-collapse-bench {__version__}")
    commands = p.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in ``argv`` (default: ``sys.argv``) and return its exit status.

    The status is 2 after a ``UserError``, which wrong arguments are too, or a file that cannot be read or written, 130
    after ^C, and 128 plus the signal's number after another signal; output that cannot be written does not change it.
    """
    with output_without_errors():
        after_stop = "nothing was changed"
        try:
            args = parse(sys.argv[1:] if argv is None else argv)
            after_stop = args.after_stop
            with unchanged_process(**(HEADLESS if argv is None else {})):
                return args.execute(args)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            file = f"{error.filename}: " if error.filename else ""
            print(f"error: {UserError(f'{file}{error.strerror or error}')}", file=sys.stderr)
            return 2
        except Stopped as stopped:
            print(f"stopped: {stopped}; {after_stop}", file=sys.stderr)
            return 128 + stopped.signal
        except KeyboardInterrupt:
            print(f"\ninterrupted: {after_stop}", file=sys.stderr)
            return 130


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments. Raise ``UserError`` if they are wrong or an option has no value."""
    names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        raise UserError(f"unknown command '{argv[0]}': {suggest(argv[0], names)}")
    args = parser().parse_args(argv)
    for name, value in vars(args).items():
        if value == "":
            raise UserError(f"--{name.replace('_', '-')} has no value: write one, or leave the option out")
    return args
