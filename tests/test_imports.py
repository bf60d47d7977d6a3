"""The house's rules, read from the syntax trees: imports run one way, and the harness names no method."""

import ast
from pathlib import Path
from statistics import median

import pytest

from bench.training import registry

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "bench").rglob("*.py"), *(ROOT / "methods").rglob("*.py")])
NEVER = {"bench/report.py", "bench/store.py", "bench/config.py", "bench/errors.py", "bench/datasets/__init__.py"}
REPORTING = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bench" / "reporting").glob("*.py")}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules that a file imports; at its top level alone unless ``everywhere``. Not those for type checking only."""
    found = set()
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def graph() -> dict[str, set[str]]:
    modules = {name_of(path): path for path in FILES}
    return {
        name: {m for m in imports(path, everywhere=False) if m in modules} - {name} for name, path in modules.items()
    }


def test_there_are_no_cycles():
    edges, done, path = graph(), set(), []

    def visit(module):
        assert module not in path, f"cycle: {' → '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        path.append(module)
        for other in sorted(edges[module]):
            if not module.startswith(f"{other}."):
                visit(other)
        path.pop()
        done.add(module)

    for module in sorted(edges):
        visit(module)


LAYERS = [
    {"bench.cli.lag"},
    {"bench.cli.run"},
    {"bench.experiment.session", "bench.cli.validate"},
    {"bench.experiment.ray_executor"},
    {"bench.experiment.executor", "bench.reporting.report", "bench.cli.progress", "bench.experiment.runtime_estimate"},
    {"bench.experiment.worker"},
    {"bench.training.trainer"},
    {"bench.training.context", "bench.evaluation.evaluator", "bench.training.checkpoint"},
    {"bench.evaluation.metric_groups"},
    {"bench.evaluation.metrics", "bench.evaluation.samples"},
    {"bench.experiment.plan"},
    {"bench.training.expressions"},
    {"bench.training.registry"},
    {"bench.method"},
    {
        "bench.data.tensors",
        "bench.data.image",
        "bench.data.text",
        "bench.evaluation.estimators.inference_gap",
        "bench.models.build",
    },
    {"bench.models.decoding", "bench.models.image", "bench.models.text"},
    {"bench.models.vae", "bench.models.distributions"},
    {"bench.experiment.schema"},
    {"bench.core.config", "bench.experiment.cell_folder", "bench.core.errors", "bench.core.safe_io"},
    {"bench.core.locks", "bench.core.cancellation"},
]


def test_imports_run_from_the_command_line_down():
    level = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}
    for module, used in graph().items():
        for other in used & level.keys():
            assert level.get(module, -1) <= level[other] or module not in level, f"{module} imports {other}"


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(ROOT).as_posix() in NEVER | REPORTING], ids=name_of)
def test_the_report_and_the_store_know_neither_torch_nor_ray(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "ray"}


def test_only_rays_driver_imports_ray_and_only_to_use_it():
    users = {name_of(path) for path in FILES if any(name.split(".")[0] == "ray" for name in imports(path))}
    assert users == {"bench.experiment.ray_executor"}
    assert not any(name.split(".")[0] == "ray" for name in imports(ROOT / "bench" / "on_ray.py", everywhere=False))


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "methods")], ids=name_of)
def test_methods_import_the_contract_and_nothing_else_of_the_harness(path):
    allowed = ("bench.method", "bench.core.schedules", "bench.models", "bench.data.dataset", "methods.")
    own = {name for name in imports(path) if name.split(".")[0] in ("bench", "methods")}
    assert all(name.startswith(allowed) for name in own), own


def test_the_harness_names_no_method():
    names = set(registry.method_names())
    for path in FILES:
        tree = ast.parse(path.read_text("utf-8"))
        if path.is_relative_to(ROOT / "bench"):
            texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert not texts & names, path
            assert not any(name.startswith("methods.") for name in imports(path)), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                compared = {c.value for c in [node.left, *node.comparators] if isinstance(c, ast.Constant)}
                assert not compared & names, f"{path}:{node.lineno} compares with a method's name"


def test_there_are_many_methods_and_they_are_short():
    lengths = {n: len((ROOT / "methods" / f"{n}.py").read_text("utf-8").splitlines()) for n in registry.method_names()}
    assert len(lengths) >= 26 and median(lengths.values()) <= 45
    assert {name: length for name, length in lengths.items() if length > 100} == {}
