"""The Slurm script, with commands of Slurm that run everything on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kills import COMMAND

ROOT = Path(__file__).parents[2]
FAKES = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": 'tr , "\\n" <<<"$3"\n',
}


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.skipif(os.name != "posix", reason="needs bash")
def test_two_nodes_of_an_allocation_share_the_cells(tmp_path):
    for name, script in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}")
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    allocation = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "one,two", "SLURM_CPUS_PER_TASK": "1"}
    command = [str(ROOT / "docs" / "slurm.sh"), *COMMAND, str(tmp_path / "out")]
    environment = os.environ | allocation | {"PATH": path, "BENCH_CACHE": str(tmp_path / "cache")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "8 cells in " in run.stdout and " on 2 workers: " in run.stdout
