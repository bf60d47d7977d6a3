"""The one exception that a person at the command line is meant to see, and how a command ends."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can put right; printed as one line, exit status 2.

    The message says what is wrong and what to do about it.
    """


def exit_status(command: Callable[[], int], kept: str) -> int:
    """The command's own status; 2 after a ``UserError``; 130 after ^C, with a line on what is ``kept``."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        return 130
