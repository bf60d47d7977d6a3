"""Command-line tests: a tiny preset ``quick``, toy data sets, and one finished run shared by all tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.data.dataset import Prepared
from bench.experiment.cell_folder import CellFolder, cell_folders

TRAIN = """
epochs = 3
epoch_updates = 4
batch_size = 10
ramp = 0.5
val_examples = 20
extra_updates_until = 0.2
mi_rule = "mi"
"""
EVALUATION = """
test_examples = 20
iw_samples = 4
batch_size = 10
pictures = 2
metrics = ["refined_iw", "latent_use"]
refined_iw_examples = 4
refined_iw_steps = 3
refined_iw_samples = 25
latent_use_examples = 6
"""
TOY = f"""
summary = "for tests"
seeds = 1

[image.model]
image_size = 7
latent_dim = 3
encoder_channels = [4, 4]
features = 8
decoder_channels = 6
kernels = [5, 3, 3]
skips = [3]
maps = 2

[image.train]
{TRAIN}
[image.evaluation]
{EVALUATION}
[text.model]
latent_dim = 2
embedding = 6
hidden = 8

[text.train]
optimiser = "sgd"
lr = 1.0
{TRAIN}
[text.evaluation]
{EVALUATION}
"""


@contextmanager
def toy_environment(folder: Path, image: Prepared, text: Prepared) -> Iterator[pytest.MonkeyPatch]:
    """Make ``quick`` the toy preset and ``text`` the toy text; any other data set is the toy images."""
    presets = folder / "presets"
    presets.mkdir()
    (presets / "quick.toml").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.experiment.presets.PRESETS", presets)
        patch.setattr("bench.data.registry.prepare", lambda name, *_: text if name == "text" else image)
        patch.setenv("BENCH_CACHE", str(image.path.parent))
        yield patch


def bench(out: Path, *arguments: str) -> int:
    """Run ``bench run`` in this process, without controls unless ``--controls`` is given."""
    return main(["run", "--out", str(out), "--executor", "local", "--no-controls", *arguments])


def metrics(out: Path) -> dict[Path, dict]:
    """Return the metrics of every evaluated cell."""
    return {cell.path.relative_to(out): cell.evaluation().metrics for cell in cell_folders(out)}


def only_cell(out: Path, method: str) -> CellFolder:
    """Return the only cell whose method starts with ``method``."""
    (cell,) = (cell for cell in cell_folders(out) if cell.path.parent.name.startswith(method))
    return cell


def assert_error(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """Assert that one line with ``message`` was printed as an error."""
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.fixture
def toy(prepared, text_prepared, tmp_path):
    """An output folder in the toy environment. No figures are drawn."""
    with toy_environment(tmp_path, prepared, text_prepared) as patch:
        patch.setattr("bench.reporting.figures.draw", lambda *_: [])
        yield tmp_path / "out"


@dataclass(frozen=True)
class FinishedRun:
    out: Path
    status: int
    printed: str


@pytest.fixture(scope="session")
def finished_run(prepared, text_prepared, tmp_path_factory) -> FinishedRun:
    """A run of ``vae`` and a sweep of ``beta_vae`` on toy images, with all its figures. Do not change its files."""
    folder, stdout = tmp_path_factory.mktemp("finished"), StringIO()
    with toy_environment(folder, prepared, text_prepared), redirect_stdout(stdout):
        status = bench(folder / "out", "--methods", "vae,beta_vae(beta=0.2|0.4)")
    return FinishedRun(folder / "out", status, stdout.getvalue())


@pytest.fixture
def finished(finished_run, toy) -> Path:
    """A copy of the finished run in the toy environment."""
    return shutil.copytree(finished_run.out, toy)
