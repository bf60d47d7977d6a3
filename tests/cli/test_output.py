"""Every command in a process of its own, with standard output and error that cannot take what it prints."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.test_packaging import SMALL, settings

COMMANDS = {
    "help": (["--help"], 0),
    "unknown": (["trian"], 2),
    "list": (["list"], 0),
    "run": (["run", "--methods", "vae", "--dataset", "blöbs.npz", "--executor", "local", *settings(SMALL)], 0),
    "lag": (["lag", "--methods", "vae", "--dataset", "blöbs.npz", "--dry-run"], 0),
    "report": (["report", "finished"], 0),
    "evaluate": (["evaluate", "finished", "--executor", "local", "--metrics", "latent_use"], 0),
    "verify": (["verify", "finished"], 0),
    "merge": (["merge", "finished", "--out", "merged"], 0),
    "speed": (["speed", "--methods", "vae", "--models", "image:quick", "--seconds", "0.01"], 0),
}
#: Redirections of a shell, and additions to the environment.
OUTPUTS = {
    "ascii": (">printed 2>&1", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "closed": (">&- 2>&- <&-", {}),
    "full": (">/dev/full 2>&1", {"PYTHONIOENCODING": "latin-1"}),
    "no reader": ("2>&1 | true", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_commands_do_not_depend_on_their_output(command, output, finished_run, prepared, tmp_path):
    (arguments, status), (redirections, environment) = COMMANDS[command], OUTPUTS[output]
    shutil.copytree(finished_run.out, tmp_path / "finished")
    np.savez(tmp_path / "blöbs.npz", **{split: prepared.arrays()[split][:50] for split in ("train", "val", "test")})
    shell = ["bash", "-c", f'"$@" {redirections}; exit ${{PIPESTATUS[0]}}', "bash", sys.executable, "-m", "bench"]
    environment = os.environ | {"BENCH_CACHE": str(prepared.path.parent)} | environment
    process = subprocess.run([*shell, *arguments], cwd=tmp_path, env=environment, capture_output=True)
    assert process.returncode == status, process.stdout + process.stderr
    printed = tmp_path / "printed"
    assert not printed.exists() or b"Traceback" not in printed.read_bytes()
    if command == "run":
        assert "blobs" not in (page := (tmp_path / "out" / "report.html").read_text("utf-8")) and "28×28" in page
