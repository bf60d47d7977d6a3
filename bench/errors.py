"""The one exception that a person at the command line is meant to see."""


class UserError(Exception):
    """Something the user can put right; printed as one line, exit status 2.

    The message says what is wrong and what to do about it.
    """
