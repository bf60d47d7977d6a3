"""The documentation against the code: generated pages, links, metric names, and every block of code as it stands."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
import torch

from bench import __version__, methods
from bench.cli import options
from bench.cli.main import main, parse
from bench.core.files import read_json
from bench.data import datasets
from bench.data import registry as datasets_registry
from bench.data.dataset import Prepared
from bench.models import architectures
from bench.reporting.frame import metric_names
from bench.training import registry
from tests.cli.conftest import toy_environment
from tests.conftest import assert_equal_weights
from tests.methods.test_contract import best_weights, with_vae_settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "results").glob("*.md")])
BLOCK = re.compile(r'^ *```(\w*)(?: title="([^"\n]*)")?\n(.*?)^ *```$', re.DOTALL | re.MULTILINE)
#: Commands of other programs: their syntax is checked, they are not run.
OTHER_PROGRAMS = {
    *(".", "export", "git", "ray", "sbatch", "tensorboard"),
    *("benchmarks/gpu.sh", "pip", ".venv/bin/pip", ".venv/bin/ruff", ".venv/bin/mypy"),
}
#: Pages that are run from top to bottom on toy data, and their commands of ``bench`` that are; others are only parsed.
ALL = ("run", "report", "verify", "list")
RUN = [
    pytest.param("README.md", ("run",), marks=pytest.mark.slow),
    ("docs/diagnose.md", ()),
    ("docs/python.md", ("run",)),
    pytest.param("docs/start.md", ALL, marks=pytest.mark.slow),
    pytest.param("docs/tutorial.md", ALL, marks=pytest.mark.slow),
]


@dataclass(frozen=True)
class Block:
    """A block of code, with the file that it is the content of, if it has a title."""

    place: str
    language: str
    title: str
    code: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(f"{page.name}:{text[: match.start()].count(chr(10)) + 1}", match[1], match[2] or "", dedent(match[3]))
        for match in BLOCK.finditer(text)
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of every command in a block of shell, without the variables that it sets."""
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&")
        lexer.whitespace_split = True
        for is_operator, words in groupby(lexer, lambda word: word == "&&"):
            if not is_operator:
                yield [word for word in words if not re.match("[A-Z_]+=", word)]


def bench_arguments(words: list[str]) -> list[str] | None:
    """Return the arguments of a command of ``bench``, or None for another program."""
    program, *rest = words
    if Path(program).name in ("python", "python3") and rest[:2] == ["-m", "bench.run"]:
        return ["run", *rest[2:]]
    if Path(program).name in ("python", "python3") and rest[:2] == ["-m", "bench"]:
        return rest[2:]
    return rest if program == "posterior-collapse-bench" else None


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def without_code_blocks(page: Path) -> str:
    return BLOCK.sub("", page.read_text("utf-8"))


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


def test_every_page_is_in_index_and_navigation():
    index, site = (DOCS / "README.md").read_text("utf-8"), (DOCS / "mkdocs.yml").read_text("utf-8")
    pages = [page.name for page in DOCS.glob("*.md")]
    assert not [name for name in pages if name != "README.md" and f"({name})" not in index]
    assert not [name for name in pages if f"docs/{name}\n" not in site]


def test_readme_fits_and_citation_is_current():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
    citation, bibtex = (ROOT / "CITATION.cff").read_text("utf-8"), (DOCS / "citing.md").read_text("utf-8")
    assert f"version: {__version__}\n" in citation and f"{{{__version__}}}" in bibtex


def test_every_metric_is_documented():
    documented = set(re.findall(r"`(\w+)`", (DOCS / "metrics.md").read_text("utf-8")))
    assert not set(metric_names()) - documented


def test_blocks_have_a_language_and_python_is_run():
    run = {getattr(page, "values", page)[0] for page in RUN}
    assert {str(page.relative_to(ROOT)) for page in PAGES if "```python" in page.read_text("utf-8")} <= run
    languages = {block.place: block.language for page in PAGES for block in blocks(page)}
    languages = {
        place: name for place, name in languages.items() if name not in ("bash", "python", "bibtex", "text", "toml")
    }
    assert not languages
    fences = {page.name: re.findall("^ *```", without_code_blocks(page), re.MULTILINE) for page in PAGES}
    assert not any(fences.values()), fences


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem.lower())
def test_commands_parse(page: Path, tmp_path, monkeypatch):
    """Commands of ``bench`` are parsed by its own parser; others must be of a known program or module."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.language != "bash":
            continue
        assert not subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True).stderr, block.place
        for words in commands(block):
            arguments = bench_arguments(words)
            if arguments is not None:
                parse(arguments)
                if "--save" in arguments:
                    Path(arguments[arguments.index("--save") + 1]).touch()
            elif Path(words[0]).name in ("python", "python3"):
                module = words[2] if words[1] == "-m" else ""
                assert importlib.util.find_spec(module) if module else (ROOT / words[1]).exists(), block.place
            else:
                assert words[0] in OTHER_PROGRAMS, f"{block.place}: {words[0]}"


def test_options_in_the_text_exist(capsys):
    """Every ``python -m bench …`` in the text names a command, and options that its --help lists."""

    @cache
    def known(*command: str) -> set[str]:
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        return set(re.findall(r"--[\w-]+", capsys.readouterr().out))

    wrong = []
    for page in PAGES:
        for words in re.findall(r"`python -m bench ([^`]*)`", without_code_blocks(page).replace("\n", " ")):
            command, *rest = words.split()
            used = {word.partition("=")[0] for word in rest if word.startswith("--")}
            wrong += [f"{page.name}: {command} {option}" for option in used - known(command)]
    assert not wrong


@contextmanager
def toy_checkout(folder: Path, image: Prepared, text: Prepared) -> Iterator[pytest.MonkeyPatch]:
    """A checkout to which a page adds methods, data sets and models, in the toy environment. No figures are drawn.

    Every data set that is neither added nor a file is a toy: text for those of text, otherwise images.
    """
    toys = dict.fromkeys(("synthetic", "yahoo", "yelp"), text)
    prepare, added = datasets_registry.prepare, folder / "bench" / "data" / "datasets"
    models = folder / "bench" / "models" / "architectures"

    def prepare_toy(name: str, *rest: object) -> Prepared:
        return prepare(name, *rest) if Path(name).exists() or (added / f"{name}.py").exists() else toys.get(name, image)

    with toy_environment(folder, image, text) as patch:
        shorter = (folder / "presets" / "quick.toml").read_text("utf-8")
        shorter = shorter.replace("epochs = 3", "epochs = 1").replace("epoch_updates = 4", "epoch_updates = 2")
        for preset in ("quick", "small", "paper"):
            (folder / "presets" / f"{preset}.toml").write_text(shorter)
        patch.chdir(folder)
        patch.setattr("bench.reporting.figures.draw", lambda *_: [])
        patch.setattr("bench.data.registry.prepare", prepare_toy)
        patch.setattr(methods, "__path__", [*methods.__path__, str(folder / "methods")])
        patch.setattr(datasets, "__path__", [*datasets.__path__, str(added)])
        patch.setattr(architectures, "__path__", [*architectures.__path__, str(models)])
        try:
            yield patch
        finally:
            registry.method_names.cache_clear()
            if printed := [name for name, module in sys.modules.items() if is_below(module, folder)]:
                registry._method.cache_clear()
                for name in printed:
                    del sys.modules[name]


def is_below(module: ModuleType, folder: Path) -> bool:
    return Path(getattr(module, "__file__", None) or "/").is_relative_to(folder)


@pytest.mark.parametrize(("name", "run"), RUN)
def test_page_runs(name: str, run: tuple[str, ...], prepared, text_prepared, tmp_path):
    """Write the files of a page, execute its Python blocks, run its commands. ``--dry-run`` has a test of its own."""
    namespace: dict[str, object] = {}
    with toy_checkout(tmp_path, prepared, text_prepared) as patch:
        patch.setitem(options.OPTIONS["--executor"], "default", "local")
        for block in blocks(ROOT / name):
            if block.title:
                file = tmp_path / block.title
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.code, "utf-8")
                registry.method_names.cache_clear()
            elif block.language == "python":
                exec(compile(block.code, block.place, "exec"), namespace)
            elif block.language == "bash":
                for arguments in filter(None, map(bench_arguments, commands(block))):
                    if arguments[0] in run and "--dry-run" not in arguments:
                        assert main(arguments) == 0, f"{block.place}: {arguments}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem.lower())
def test_printed_runs_can_be_planned(page: Path, prepared, text_prepared, tmp_path):
    with toy_checkout(tmp_path, prepared, text_prepared):
        (tmp_path / "DIR").mkdir()
        for block in blocks(page):
            if block.title:
                (tmp_path / block.title).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / block.title).write_text(block.code, "utf-8")
        registry.method_names.cache_clear()
        runs = [words for block in blocks(page) if block.language == "bash" for words in commands(block)]
        for arguments in filter(None, map(bench_arguments, runs)):
            assert arguments[0] != "run" or main([*arguments, "--out", "out", "--dry-run"]) == 0, arguments


@pytest.mark.slow
def test_site_is_complete_without_network(tmp_path):
    """Warnings, such as that of a broken link, fail the build."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(DOCS / "mkdocs.yml"), "-d", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.returncode == 0, process.stderr
    loaded = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?(?:src|href)="(?:https?:)?//')
    assert not [page for page in tmp_path.rglob("*.html") if loaded.search(page.read_text("utf-8"))]
    found = {entry["location"] for entry in read_json(tmp_path / "search" / "search_index.json")["docs"]}
    assert {f"methods/{path.stem}.html" for path in ROOT.glob("methods/[!_]*.py")} <= found
    assert "docs/api.html#bench.method.Method.kl_loss" in found


def printed_methods() -> list:
    files = [block for block in blocks(DOCS / "tutorial.md") if block.title.startswith("methods/")]
    return [pytest.param(block.code, id=Path(block.title).stem) for block in files if "vae_settings = {" in block.code]


@pytest.mark.parametrize("code", printed_methods())
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
