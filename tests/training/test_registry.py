"""The registry: method files, entry points, and errors of broken methods in one line."""

import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest

import bench.methods
from bench.core import plugins
from bench.core.config import build
from bench.core.errors import UserError
from bench.experiment.plan import method_record
from bench.experiment.schema import MethodRecord
from bench.training import registry
from bench.training.expressions import parse_methods

HEADER = """
from dataclasses import dataclass
from bench.method import Method

class Mine(Method):
    summary, citation = "A method", "-"
"""


@pytest.fixture
def add_method(tmp_path, monkeypatch):
    """``add_method(name, source)`` puts a file next to the built-in methods."""
    monkeypatch.setattr(bench.methods, "__path__", [*bench.methods.__path__, str(tmp_path)])
    monkeypatch.setattr(plugins, "entry_points", lambda group: ())

    def add(name, source):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        clear()

    def clear():
        for cache in (registry.method_names, registry._method):
            cache.cache_clear()

    yield add
    clear()
    for name in [name for name in sys.modules if name.startswith("bench.methods.mine")]:
        del sys.modules[name]


def test_a_file_is_a_method(add_method):
    add_method("mine_ok", HEADER)
    assert "mine_ok" in registry.method_names()
    assert registry.method("mine_ok").name == "mine_ok" and "mine_ok" in registry.suites()["all"]


def test_a_method_with_the_name_of_a_suite_is_refused(add_method, monkeypatch):
    add_method("core", HEADER)
    with pytest.raises(UserError, match="method 'core' has the name of a suite: rename its file"):
        parse_methods(["paper"], "quick")
    del sys.modules["bench.methods.core"]


def test_a_method_that_does_not_initialise_its_base_is_one_line(add_method):
    add_method("mine_init", f"{HEADER}\n    def __init__(self, config=None, schedule=None): pass\n")
    [row], _ = parse_methods(["mine_init"], "quick")
    with pytest.raises(UserError, match="method 'mine_init': __init__ must call super"):
        row.instance()


def test_settings_of_many_values_are_recorded(add_method):
    config = "    @dataclass(frozen=True)\n    class Config:\n        widths: tuple[int, ...] = (1, 2)\n"
    add_method("mine_many", f"{HEADER}\n{config}")
    (row,), _ = parse_methods(["mine_many(widths=(3,4))"], "quick")
    record = MethodRecord.model_validate_json(method_record(row).model_dump_json())
    assert build(row.method.Config, record.config, "Config") == row.config and row.config.widths == (3, 4)


def test_an_entry_point_is_a_method(add_method, monkeypatch):
    add_method("mine_file", HEADER)
    entry = EntryPoint("mine_entry", "bench.methods.mine_file", registry.REGISTRY.entry_points)
    monkeypatch.setattr(plugins, "entry_points", lambda group: (entry,))
    assert registry.method("mine_entry").__module__ == "bench.methods.mine_file"
    clash = EntryPoint("vae", "bench.methods.mine_file", registry.REGISTRY.entry_points)
    monkeypatch.setattr(plugins, "entry_points", lambda group: (clash,))
    registry._method.cache_clear()
    with pytest.raises(UserError, match="method 'vae' is registered twice"):
        registry.method("vae")


def test_a_broken_method_is_a_one_line_error(add_method, subtests):
    cases = [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit", "cannot be imported: SystemExit"),
        ("x = 1", "one subclass of bench.method.Method, not 0"),
        (HEADER.replace('"A method"', '""'), "'summary' must be one line of text"),
        (HEADER + "    table_order = '1'", "'table_order' must be float, not '1'"),
        (HEADER + "    latent = 1", "'latent' must be bool, not 1"),
        (HEADER + "    modalities = 'text'", "'modalities' must be Sequence[str], not 'text'"),
        (HEADER + "    modalities = ('txt',)", "'modalities' has an unknown entry 'txt': did you mean 'text'?"),
        (HEADER + "    incompatible_with = {'schedul': ''}", "unknown entry 'schedul': did you mean 'schedule'?"),
        (HEADER + "    preset_overrides = {'small': {'x': 1}}", "'preset_overrides' of 'small' has no setting 'x'"),
        (HEADER + "    vae_settings = {'x': 1}", "'vae_settings' has no setting 'x'"),
        (HEADER + "    display_params = ('x',)", "'display_params' has an unknown setting 'x'"),
        (HEADER + "    suites = {'core': ['vae']}", "suite 'core' has 'vae': only expressions of this method"),
        (HEADER + "    family = 'objectives'", "'family' is 'objectives': did you mean 'objective'?"),
        ("from bench.method import Range\nRange(5.0, 1.0)", "the first bound must be lower"),
        ("from bench.method import Range\nRange(0.0, 1.0)", "above 0 with log=True"),
        (HEADER + "    revision = 0", "'revision' must be at least 1"),
        (HEADER + "    def kl_los(self, terms): pass", "'kl_los' is no hook: did you mean 'kl_loss'?"),
        (HEADER + "    loss = None", "'loss' must take the parameters (self, ctx, terms)"),
        (HEADER + "    def step(self, ctx): pass", "'step' must take the parameters (self, ctx, x)"),
        (HEADER + "    @dataclass\n    class Config:\n        x: int = 1", "decorated with @dataclass(frozen=True)"),
        (HEADER + "    @dataclass(frozen=True)\n    class Config:\n        x: int", "needs a JSON default"),
        (HEADER + "    @dataclass(frozen=True)\n    class Config:\n        x: int = 0.5", "of its annotated type"),
    ]
    for number, (source, message) in enumerate(cases):
        with subtests.test(source=source.removeprefix(HEADER)):
            add_method(f"mine_{number}", source)
            with pytest.raises(UserError) as error:
                registry.method(f"mine_{number}")
            assert message in str(error.value) and str(error.value).startswith(f"method 'mine_{number}'")
    assert f"mine_{len(cases) - 1}" in registry.suites()["all"] and registry.method("vae")
