"""Digests of a module's code."""

import importlib
import sys

import pytest

from bench.core.plugins import code_changed, code_digest

CODE = """
def loss(x):
    return 2 * x
"""


def digest(code, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_a_test.py").write_text(code)
    monkeypatch.delitem(sys.modules, "of_a_test", raising=False)
    importlib.import_module("of_a_test")
    code_digest.cache_clear()
    return code_digest("of_a_test")


@pytest.mark.parametrize(
    ("edited", "changes"),
    [
        (CODE.replace("2", "3"), True),
        (CODE + "\n\nfactor = 2", True),
        (f'"""A module."""\n{CODE}  # twice\n', False),
        (CODE.replace("\n    return", '\n    """Return it twice."""\n    return'), False),
        (CODE.replace("2 * x", "(\n        2 * x\n    )"), False),
    ],
)
def test_digest_changes_with_the_code_alone(edited, changes, tmp_path, monkeypatch):
    stored = digest(CODE, tmp_path, monkeypatch)
    assert (digest(edited, tmp_path, monkeypatch) != stored) == changes == code_changed(stored, "of_a_test")


def test_digests_of_another_python_are_not_compared(tmp_path, monkeypatch):
    digest(CODE, tmp_path, monkeypatch)
    assert not code_changed("3.0 000000000000", "of_a_test")
