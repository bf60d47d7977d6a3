"""A metric group is one file: it is found, configured, measured, stored, estimated, reported and documented."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.core.errors import UserError
from bench.evaluation import groups, registry
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.registry import metric_groups
from bench.experiment.runtime_estimate import cell_updates
from bench.experiment.worker import run_cell
from bench.reporting import report
from tests.conftest import EVALUATION, TOY

ROOT = Path(__file__).parents[2]

CODE = '''
"""Length of the posterior means."""

from dataclasses import dataclass

from bench.evaluation.registry import GroupResult, GroupSettings, Metric, MetricGroup


@dataclass(frozen=True)
class Settings(GroupSettings):
    examples: int = 7


def measure(trained, settings):
    norms = [block.q.mean.norm(dim=1).mean().item() for block in trained.blocks(settings.examples)]
    return GroupResult({"toy_norm": sum(norms) / len(norms)})


GROUP = MetricGroup(
    summary="length of the posterior means",
    settings=Settings,
    measure=measure,
    decodings=lambda settings: 1e6 * settings.examples,
    panel="Use of z",
    metrics=(Metric("toy_norm", "norm", "mean length of E[z|x] on {examples} examples", digits=1),),
)
'''


@pytest.fixture
def add_group(tmp_path, monkeypatch):
    """``add_group(name, code)`` adds a file to the package of metric groups."""
    names = []
    monkeypatch.setattr(groups, "__path__", [*groups.__path__, str(tmp_path)])

    def clear():
        registry._names.cache_clear()
        registry._load.cache_clear()

    def add(name: str, code: str) -> None:
        names.append(name)
        (tmp_path / f"{name}.py").write_text(code, "utf-8")
        clear()

    yield add
    monkeypatch.undo()
    clear()
    for name in names:
        sys.modules.pop(f"{groups.__name__}.{name}", None)


def test_new_group_is_one_file(add_group, planned, task, no_figures, capsys):
    add_group("toy", CODE)
    config = EvaluationConfig.build({**EVALUATION.to_flat(), "metrics": ("refined_iw", "toy"), "toy_examples": 4})
    cell = planned("vae")
    run_cell(task(cell, evaluation=config))
    record = cell.folder.evaluation()
    assert record.groups["toy"].settings == {"examples": 4} and record.metrics["toy_norm"] > 0

    method = cell.variant.instance()
    costs = [
        cell_updates(method, replace(TOY, evaluation=evaluation), 10, cell.config.dataset)
        for evaluation in (config, config.with_overrides({"toy_examples": 8}))
    ]
    assert costs[1] > costs[0] + 1e4

    [table] = report.build(cell.folder.path.parents[4])
    assert "norm" in table.text and "mean length of E[z|x] on 4 examples" in table.text
    [csv] = cell.folder.path.parents[4].glob("tables/*.csv")
    assert "toy_norm" in csv.read_text().splitlines()[0].split(",")

    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "toy          length of the posterior means" in capsys.readouterr().out
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    text = generate.metric_groups()
    assert "| `toy` | length of the posterior means | `toy_examples=7` | no |" in text
    assert "| `toy_norm` | norm | mean length of E[z|x] on `toy_examples` examples | – |" in text


def test_broken_group_is_an_error_with_its_file(add_group):
    add_group("toy", "GROUP = 1")
    with pytest.raises(UserError, match=r"metric group 'toy' \(.*toy.py\) must define GROUP"):
        metric_groups()


@pytest.mark.parametrize(("name", "owner"), [("mi", "the basic evaluation"), ("shuffle_gap", "group latent_use")])
def test_metric_that_another_group_has_is_refused(add_group, name, owner):
    add_group("toy", CODE.replace('"toy_norm"', f'"{name}"'))
    with pytest.raises(UserError, match=f"metric '{name}' is defined by {owner} and by group toy"):
        metric_groups()


def test_groups_are_read_without_torch():
    code = (
        "import sys; from bench.evaluation.config import EvaluationConfig; EvaluationConfig()\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
