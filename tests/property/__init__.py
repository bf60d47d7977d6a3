"""Properties that hold for every input of a kind, on inputs that hypothesis makes up: the same ones every time."""

from hypothesis import settings

#: How the tests here are run, but for the number of inputs.
steady = settings(derandomize=True, deadline=None, max_examples=100)
