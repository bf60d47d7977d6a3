"""The documentation against the code: generated pages, links, metric names, printed examples and commands."""

import importlib
import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bench import methods
from bench.data.dataset import Prepared
from bench.reporting.frame import metric_names
from bench.training import registry
from tests.conftest import assert_equal_weights
from tests.methods.test_contract import best_weights, with_vae_settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"])
EXAMPLES = [
    pytest.param(code, id=f"{page.stem.lower()}-{number}")
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    )
]


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def without_code_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, numbered like GitHub's where a heading occurs twice."""
    slugs: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", without_code_blocks(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        earlier = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in slugs)
        slugs.append(f"{slug}-{earlier}" if earlier else slug)
    return set(slugs)


def test_generated_pages_are_current():
    generate = load_module(DOCS / "generate.py")
    stale = [path.name for path, text in generate.pages().items() if path.read_text("utf-8") != text]
    assert not stale, f"run {generate.COMMAND}"


def test_links_resolve():
    broken = []
    for page in PAGES:
        text = re.sub(r"`[^`\n]*`", "", without_code_blocks(page))
        for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text("utf-8")
    assert not [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index]


def test_every_metric_is_documented():
    documented = set(re.findall(r"`(\w+)`", (DOCS / "metrics.md").read_text("utf-8")))
    assert not set(metric_names()) - documented


def test_options_in_printed_commands_exist(monkeypatch, capsys):
    """Every ``python -m bench …`` in the documentation names a command, and options that its --help lists."""

    @cache
    def options(module: str, *subcommand: str) -> set[str]:
        monkeypatch.setattr(sys, "argv", [module, *subcommand, "--help"])
        with pytest.raises(SystemExit) as stop:
            importlib.import_module("bench.__main__" if module == "bench" else module).main()
        assert not stop.value.code
        return set(re.findall(r"--[\w-]+", capsys.readouterr().out))

    wrong = []
    for page in PAGES:
        for module, rest in re.findall(r"python -m (bench[\w.]*)([^\n`]*)", page.read_text("utf-8")):
            words = shlex.split(rest, comments=True)
            subcommand = [word for word in words[:1] if module == "bench" and not word.startswith("-")]
            if importlib.util.find_spec(module) is None:
                wrong.append(f"{page.name}: {module}")
                continue
            used = {word.partition("=")[0] for word in words if word.startswith("--")}
            wrong += [f"{page.name}: {module} {option}" for option in used - options(module, *subcommand)]
    assert not wrong


@pytest.mark.parametrize("code", [e for e in EXAMPLES if "(Method):" in e.values[0]])
def test_printed_method_trains(code, text_trainer, tmp_path, monkeypatch):
    """The method differs from the VAE with its defaults, and equals it with its VAE settings."""
    (tmp_path / "printed.py").write_text(code, "utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "method_names", lambda: ("printed", "vae"))
    monkeypatch.setattr(registry, "_method", registry._method.__wrapped__)
    monkeypatch.delitem(sys.modules, "bench.methods.printed", raising=False)
    weights = {}
    for expression in ("vae", with_vae_settings("printed"), "printed"):
        text_trainer(expression, tmp_path / expression).run()
        weights[expression] = best_weights(tmp_path / expression)
    vae, equal, different = weights.values()
    assert_equal_weights(equal, vae)
    assert any(not torch.equal(value, vae[name]) for name, value in different.items())


@pytest.mark.parametrize("code", [e for e in EXAMPLES if "def prepare(" in e.values[0]])
def test_printed_data_set_prepares(code, tmp_path):
    (tmp_path / "printed.py").write_text(code, "utf-8")
    prepared = load_module(tmp_path / "printed.py").prepare(tmp_path, tmp_path / "cache")
    assert isinstance(prepared, Prepared) and prepared.arrays().keys() >= {"train", "val", "test"}
