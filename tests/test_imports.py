"""Architecture rules, read from the syntax trees of bench/ and methods/."""

import ast
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from bench.training import registry

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("bench", "methods")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
#: Folder (or module) of bench -> its level. A module imports its own folder and lower levels only.
LEVELS = {
    "core": 0,
    "data": 1,
    "models": 2,
    "method": 3,
    "training": 4,
    "evaluation": 4,
    "experiment": 5,
    "diagnosis": 5,
    "reporting": 6,
    "cli": 7,
    "run": 8,
    "__main__": 8,
}
METHOD_IMPORTS = ("bench.method.", "bench.models.", "bench.data.dataset.", "bench.core.modifiers.", "methods.")
MAX_LINES, MAX_MODULES = 350, 20


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def imports(module: str) -> frozenset[str]:
    """Names that a module imports: anywhere in it, also inside functions, but not for type checking only."""
    names, nodes = set(), [tree(FILES[module])]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
            source = resolve_name("." * node.level + (node.module or ""), package)
            members = {f"{source}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else source for name in members}
        if not is_type_checking(node):
            nodes += ast.iter_child_nodes(node)
    return frozenset(names)


def external(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def in_folder(*folders: str) -> list[str]:
    return [module for module in FILES if module.startswith(tuple(f"{folder}." for folder in folders))]


def test_imports_point_to_lower_levels():
    wrong = []
    for module in in_folder("bench"):
        folder = module.split(".")[1]
        for other in imports(module):
            if other.startswith("bench.") and other in FILES:
                target = other.split(".")[1]
                if target != folder and LEVELS[target] >= LEVELS[folder]:
                    wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_import_cycles():
    finished, path = set(), []

    def visit(module):
        assert module not in path, f"cycle: {' → '.join([*path[path.index(module) :], module])}"
        if module in finished:
            return
        path.append(module)
        for other in sorted(imports(module) & FILES.keys()):
            if not module.startswith(f"{other}."):
                visit(other)
        path.pop()
        finished.add(module)

    for module in sorted(FILES):
        visit(module)


def test_core_and_reporting_import_no_torch():
    assert not [module for module in in_folder("bench.core", "bench.reporting") if external(module) & {"torch", "ray"}]


def test_diagnosis_needs_neither_trainer_nor_ray():
    reached, waiting = set(), in_folder("bench.diagnosis")
    while waiting:
        module = waiting.pop()
        assert not module.startswith(("bench.training", "bench.experiment", "methods")) and "ray" not in external(
            module
        )
        reached.add(module)
        waiting += (imports(module) & FILES.keys()) - reached
    assert "bench.evaluation.estimators.mutual_information" in reached


def test_ray_is_imported_when_it_is_used():
    """Only the Ray executor imports ray, and it is imported inside functions only."""
    assert {module for module in FILES if "ray" in external(module)} == {"bench.experiment.run_on_ray"}
    for path in FILES.values():
        top_level = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("run_on_ray" in ast.unparse(node) for node in top_level), path


def test_methods_import_the_contract_only():
    wrong = {
        f"{module} imports {name}"
        for module in in_folder("methods")
        for name in imports(module)
        if name.startswith(("bench", "methods")) and not f"{name}.".startswith(METHOD_IMPORTS)
    }
    assert not wrong


def test_bench_names_no_method():
    """No special case: no method's name as a string in bench/, and no comparison with one anywhere."""
    names, wrong = set(registry.method_names()), []
    for module, path in FILES.items():
        assert module.startswith("methods") or not any(name.startswith("methods.") for name in imports(module)), module
        for node in ast.walk(tree(path)):
            strings = [node] if module.startswith("bench") else []
            if isinstance(node, ast.Compare):
                strings = [node.left, *node.comparators]
            if any(isinstance(string, ast.Constant) and string.value in names for string in strings):
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong


def test_files_and_folders_are_short():
    files = [path for folder in ("bench", "methods", "tests") for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}
    folders = [
        path.parent for path in FILES.values() if path.name != "__init__.py" and path.is_relative_to(ROOT / "bench")
    ]
    assert {str(folder) for folder in folders if folders.count(folder) > MAX_MODULES} == set()
