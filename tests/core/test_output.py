"""Printing under every encoding, and with standard output or error closed, full, or without a reader."""

import os
import subprocess
import sys

import pytest

from bench.core.output import output_without_errors

CODE = """\
import sys
from bench.core.output import output_without_errors
with output_without_errors():
    with open(sys.argv[1], "w") as file:  # it must not become standard output
        print("a \\u2013 b \\udcff")
        print("c \\u2013 d", file=sys.stderr)
        file.write("kept")
sys.exit(3)
"""
ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
#: Redirections of a shell, additions to the environment, and what reaches the two streams.
CASES = {
    "ascii": ("", ASCII, "a ? b ?\n", "c ? d\n"),
    "latin-1": ("", {"PYTHONIOENCODING": "latin-1"}, "a ? b ?\n", "c ? d\n"),
    "C locale": ("", C_LOCALE, "a ? b ?\n", "c ? d\n"),
    "UTF-8": ("", {"PYTHONIOENCODING": "utf-8"}, "a – b ?\n", "c – d\n"),
    "stdout closed": (">&-", ASCII, "", "c ? d\n"),
    "stderr closed": ("2>&-", ASCII, "a ? b ?\n", ""),
    "all closed": (">&- 2>&- <&-", {}, "", ""),
    "stdout full": (
        ">/dev/full", ASCII, "", "c ? d\nwarning: standard output is incomplete: No space left on device\n"
    ),
    "both full": (">/dev/full 2>&1", {}, "", ""),
    "unbuffered": (">/dev/full 2>&1", {"PYTHONUNBUFFERED": "1"}, "", ""),
    "no reader": ("2>/dev/null | true", {}, "", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_output_does_not_decide_the_status(case, tmp_path):
    redirections, environment, *expected = CASES[case]
    shell = ["bash", "-c", f'"$@" {redirections}; exit ${{PIPESTATUS[0]}}', "bash"]
    process = subprocess.run(
        [*shell, sys.executable, "-c", CODE, tmp_path / "file"], capture_output=True, env=os.environ | environment
    )
    assert process.returncode == 3
    assert [process.stdout.decode(), process.stderr.decode()] == expected
    assert (tmp_path / "file").read_text() == "kept"


def test_a_full_pipe_without_blocking_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = "from bench.core.output import *\nwith output_without_errors(): print('x' * 10**6)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writer)
    os.close(writer)
    with open(reader, "rb") as file:
        assert len(file.read()) == 10**6 + 1
    assert process.wait() == 0


def test_streams_of_the_caller_stay(capsys):
    before = sys.stdout, sys.stderr
    with output_without_errors():
        assert (sys.stdout, sys.stderr) == before
        print("–")
    assert (sys.stdout, sys.stderr) == before and capsys.readouterr().out == "–\n"
