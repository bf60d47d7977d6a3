"""Methods and data sets that others write: whatever is wrong with one, a line says with which and in what."""

import copy
import json
import pickle
import sys
import timeit
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import methods
from bench import registry
from bench.cell import fresh, run_cell
from bench.errors import UserError
from bench.expressions import prepare, variants
from bench.guard import ContractError, reason
from bench.method import Method, Phase, Terms
from bench.models.distributions import Gaussian
from bench.run import main
from methods.vae import BasicVAE


def method(**hooks):
    """A method with these hooks and attributes, as a file of somebody else would define it."""
    about = {"summary": "for tests", "citation": "none", "name": "faulty"}
    return type("Faulty", (Method,), about | hooks)


@pytest.fixture
def registered(monkeypatch):
    """``registered(cls)``: found under the name ``faulty``."""

    def make(cls):
        names, known = registry.method_names(), registry.method
        monkeypatch.setattr(registry, "method_names", lambda: (*names, "faulty"))
        monkeypatch.setattr(registry, "method", lambda name: cls if name == "faulty" else known(name))

    return make


def given(value):
    return lambda *arguments, **named: value


def fail(*arguments, **named):
    raise LookupError("what is\nnot there")


def with_terms(**changes):
    """The basic terms with something else in them."""

    def terms(self, ctx, x):
        found = Method.terms(self, ctx, x)
        return replace(found, **{name: change(found) for name, change in changes.items()})

    return terms


def posterior(mean=lambda m: m, **changes):
    """The basic posterior with another mean, or other functions."""

    def encode(self, ctx, x, train):
        q = ctx.model.encode(x)
        q = Gaussian(mean(q.mean), mean(q.logvar))
        for name, value in changes.items():
            setattr(q, name, value)
        return q

    return encode


def groups(change):
    return lambda self, model: change(Method.param_groups(self, model))


def two_updates(self, ctx, x):
    return ctx.update(lambda: self.objective(ctx, x)) + ctx.update(lambda: self.objective(ctx, x))


def inner_alone(self, ctx, x):
    return ctx.update(lambda: self.objective(ctx, x), groups=["encoder"])


def with_graph(self, ctx, x):
    ctx.update(lambda: self.objective(ctx, x))
    return self.objective(ctx, x)


RAISING = ("build", "param_groups", "phases", "posterior", "terms", "rate", "loss", "step", "on", "state_dict")
WRONG = [
    ("build", given(None), "the model, a VAE, expected, got None"),
    ("build", given(torch.nn.Linear(1, 1)), "the model, a VAE, expected, got 'Linear'"),
    ("param_groups", given([]), "expected, got 'list'"),
    ("param_groups", given({"decoder": []}), "dictionaries of 'params' and options"),
    ("param_groups", groups(lambda g: {**g, "decoder": {"lr_scale": 2.0}}), "'params' of group 'decoder' expected"),
    ("param_groups", groups(lambda g: {**g, "mine": {"params": iter(())}}), "'params' of group 'mine' expected"),
    ("param_groups", groups(lambda g: {"encoder": g["encoder"]}), "a group 'decoder', by which updates are counted"),
    ("param_groups", groups(lambda g: {"decoder": g["decoder"]}), "in exactly one group expected, got 23 in none"),
    ("param_groups", groups(lambda g: {**g, "mine": g["decoder"]}), "in several"),
    ("phases", given(()), "at least one, expected, got 'tuple'"),
    ("phases", given(["main"]), "a sequence of phases, at least one, expected, got 'list'"),
    ("phases", given((Phase("a", 0.5), Phase("b", 0.6))), "sum to 1 expected, got [0.5, 0.6]"),
    ("phases", given((Phase("a", 1.5), Phase("b", -0.5))), "are positive and sum to 1 expected"),
    ("phases", given((Phase(judged_by="nll"),)), "judged by 'elbo', 'loss' or None expected, got ['nll']"),
    ("posterior", given(None), "a posterior expected, got None without rsample"),
    (
        "posterior",
        lambda self, ctx, x, train: ctx.model.encode(x).mean,
        "a posterior expected, got a tensor of shape [10",
    ),
    (
        "posterior",
        posterior(lambda mean: mean[:, :2]),
        "a mean of shape [10, 3] expected, got a tensor of shape [10, 2]",
    ),
    ("posterior", posterior(lambda mean: mean[:1]), "a mean of shape [10, 3] expected, got a tensor of shape [1, 3]"),
    ("posterior", posterior(rsample=given(torch.zeros(10, 3))), "a sample of shape [10, 2, 3] expected"),
    ("posterior", posterior(log_prob=given(torch.zeros(10))), "a log_prob of shape [10, 2] expected"),
    ("posterior", posterior(log_prob=fail), "LookupError: what is"),
    ("terms", given(None), "Terms expected, got None without x"),
    ("terms", with_terms(z=lambda t: t.z[:, 0]), "z of shape [B, S, 3] expected, got a tensor of shape [10, 3]"),
    ("terms", with_terms(rec=lambda t: t.rec[:, 0]), "rec of shape [10, 1] expected, got a tensor of shape [10]"),
    ("terms", with_terms(rec=lambda t: t.rec.mean().item()), "rec of shape [10, 1] expected"),
    ("terms", with_terms(kl=lambda t: t.kl.mean()), "kl of shape [10] expected, got a tensor of shape []"),
    ("terms", with_terms(kl_dim=lambda t: t.kl), "kl_dim of shape [10, 3] expected, got a tensor of shape [10]"),
    ("rate", lambda self, terms: terms.kl, "a scalar tensor expected, got a tensor of shape [10]"),
    ("rate", given(1.5), "a scalar tensor expected, got 1.5"),
    ("loss", lambda self, ctx, terms: terms.rec, "a scalar tensor expected, got a tensor of shape [10, 1]"),
    ("loss", given(None), "a scalar tensor expected, got None"),
    ("loss", lambda self, ctx, terms: terms.rec.mean().detach(), "a loss that can be differentiated expected"),
    ("step", lambda self, ctx, x: Method.step(self, ctx, x).item(), "a scalar tensor expected, got "),
    ("step", given(torch.zeros(())), "exactly one update of the decoder expected, got 0"),
    ("step", inner_alone, "exactly one update of the decoder expected, got 0"),
    ("step", two_updates, "exactly one update of the decoder expected, got 2"),
    ("step", with_graph, "a detached loss, as of ctx.update, expected"),
    ("state_dict", given(None), "a dictionary of tensors and JSON values expected, got None"),
    ("state_dict", given({"seen": {1, 2}}), "got 'set'"),
    ("state_dict", given({"mi": [np.float64(1.0)]}), "got 'float64'"),
    ("state_dict", given({"terms": {"last": Terms}}), "got 'type'"),
]


def failure(cell, task):
    run_cell(task(cell))
    result = cell.folder.result()
    assert result["status"] == "failed"
    assert "\n" not in result["reason"] and result["reason"].isprintable()
    return result["reason"]


@pytest.mark.parametrize("hook", RAISING)
def test_a_hook_that_raises_is_named(hook, registered, planned, task):
    registered(method(**{hook: fail}))
    assert failure(planned("faulty"), task) == f"LookupError: what is (in method 'faulty', hook '{hook}')"


@pytest.mark.parametrize(("hook", "function", "message"), WRONG)
def test_a_hook_that_gives_something_else_is_named(hook, function, message, registered, planned, task):
    registered(method(**{hook: function}))
    said = failure(planned("faulty"), task)
    assert f"method 'faulty', hook '{hook}'" in said and message in said


OF_THE_PLAN = [
    ("skip", classmethod(fail), "LookupError: what is"),
    ("skip", classmethod(given(True)), "a reason or None expected, got True"),
    ("default_schedule", fail, "LookupError: what is"),
    ("default_schedule", given("anneal"), "a schedule expected, got 'anneal'"),
    ("__init__", fail, "LookupError: what is"),
    ("__init__", given(None), "a call of super().__init__(config, schedule) expected, got none"),
]


@pytest.mark.parametrize(("hook", "function", "message"), OF_THE_PLAN)
def test_a_hook_that_fails_in_the_plan_is_one_line_for_the_user(hook, function, message, registered, planned):
    registered(method(**{hook: function}))
    with pytest.raises(UserError) as error:
        planned("faulty")
    assert str(error.value).startswith(f"method 'faulty', hook '{hook}': {message}")


@pytest.mark.parametrize("cost", [0, -1.0, float("nan"), float("inf"), None, "much"])
def test_an_expected_cost_is_a_positive_number(cost):
    with pytest.raises(UserError, match="method 'faulty', hook 'expected_cost': a positive number expected, got"):
        method(expected_cost=given(cost))().expected_cost(None)


def test_a_posterior_that_is_wrong_in_evaluation_alone_is_named(registered, planned, task):
    def encode(self, ctx, x, train):
        q = ctx.model.encode(x)
        return q if train else Gaussian(q.mean[:, :1], q.logvar[:, :1])

    registered(method(posterior=encode))
    assert "hook 'posterior': a mean of shape [10, 3] expected" in failure(planned("faulty"), task)


def test_a_model_whose_head_is_wrong_is_found_at_the_posterior(registered, planned, task):
    def build(self, model, data):
        model.head = torch.nn.Linear(8, 3)
        return model

    registered(method(build=build))
    assert "method 'faulty', hook 'posterior': a posterior expected, got a tensor" in failure(planned("faulty"), task)


@pytest.mark.parametrize(
    "error",
    [FloatingPointError("x"), torch.OutOfMemoryError("x"), UserError("x"), OSError(28, "x"), ContractError("x")],
)
def test_an_error_keeps_its_type(error):
    def rate(self, terms):
        raise error

    with pytest.raises(type(error)) as raised:
        method(rate=rate)().rate(None)
    assert raised.value is error
    assert ("method 'faulty', hook 'rate'" in reason(error)) == (not isinstance(error, UserError))


def test_an_interruption_passes_and_an_exit_does_not():
    def interrupted(self, terms):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method(rate=interrupted)().rate(None)
    with pytest.raises(ContractError, match="method 'faulty', hook 'rate': it would end the process"):
        method(rate=lambda self, terms: sys.exit(3))().rate(None)


def test_the_innermost_hook_is_the_one_that_is_named(data):
    faulty = method(rate=fail, loss=lambda self, ctx, terms: self.rate(terms))()
    with pytest.raises(LookupError) as error:
        faulty.loss(None, None)
    assert reason(error.value) == "LookupError: what is (in method 'faulty', hook 'rate')"


def test_a_reason_is_a_line_whatever_the_error():
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    assert reason(Mute()) == "Mute"
    assert reason(AssertionError()) == "AssertionError"
    assert reason(ValueError("\n a\tb\x1b[31m \n c")) == "ValueError: a\\tb\\x1b[31m "


def test_a_method_of_a_method_calls_the_hooks_that_it_inherits():
    class First(Method):
        summary = "for tests"

        def rate(self, terms):
            return 2 * super().rate(terms)

    class Mixin:
        def loss(self, ctx, terms):
            return [self.rate(terms)]

    class Second(Mixin, First):
        def rate(self, terms):
            return 3 * super().rate(terms)

    terms = SimpleNamespace(kl=torch.ones(4), kl_dim=None)
    assert Second().rate(terms) == 6
    with pytest.raises(ContractError, match="method 'Second', hook 'loss': a scalar tensor expected, got 'list'"):
        Second().loss(None, terms)


def test_methods_can_be_copied_and_pickled(planned):
    for made in (BasicVAE(), fresh(planned("aggressive").config)[0]):
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert type(other) is type(made) and other.config == made.config


def test_the_look_at_a_posterior_moves_no_random_number_and_counts_no_operation(planned, data):
    from bench.evaluation.measure import EvaluationContext
    from bench.flops import flop_counter

    class Careless(Gaussian):
        def rsample(self, samples, generator=None):  # from torch's own stream
            torch.ones(3, 3) @ torch.ones(3, 3)
            return super().rsample(samples, None)

    def encode(self, ctx, x, train):
        q = ctx.model.encode(x)
        return Careless(q.mean, q.logvar)

    _, model, _ = fresh(planned("vae").config)
    ctx, x = EvaluationContext(model.eval(), data.info, None, 0), data.test[:4]
    careless, before, counts = method(posterior=encode)(), torch.get_rng_state(), []
    for _ in range(2):
        with flop_counter() as counter:
            careless.posterior(ctx, x, train=False)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0 and torch.equal(torch.get_rng_state(), before)


def test_a_guarded_call_costs_less_than_ten_microseconds():
    terms = SimpleNamespace(kl=torch.zeros(()))
    guarded = method(rate=lambda self, terms: terms.kl)()
    plain = lambda: guarded.rate.__wrapped__(guarded, terms)  # noqa: E731
    cost = [min(timeit.repeat(call, number=1000, repeat=7)) for call in (lambda: guarded.rate(terms), plain)]
    assert cost[0] - cost[1] < 1000 * 10e-6


# -- files ------------------------------------------------------------------------------------------------------------

HEAD = "from dataclasses import dataclass, field\nfrom bench.method import Method\n\n"
GOOD = "class Mine(Method):\n    summary = 'mine'\n    citation = 'none'\n"
CONFIG = f"{GOOD}    @dataclass(frozen=True)\n    class Config:\n        a: "
FILES = {
    "import nothing_of_that_name": "cannot be imported (methods.mine): ModuleNotFoundError: No module named",
    "def f(:": "cannot be imported (methods.mine): SyntaxError",
    "1 / 0": "cannot be imported (methods.mine): ZeroDivisionError: division by zero",
    "raise SystemExit(1)": "cannot be imported (methods.mine): SystemExit: 1",
    "": "it must define one subclass of bench.method.Method, not 0",
    f"{GOOD}\n\nclass Other(Mine):\n    pass": "it must define one subclass of bench.method.Method, not 2",
    "class Mine(Method):\n    pass": "it needs a summary",
    f"{GOOD}    summary = 3": "'summary' must be one line of text, not 3",
    f"{GOOD}    order = 'last'": "'order' must be a number, not 'last'",
    f"{GOOD}    revision = 0": "'revision' must be a whole number from 1, not 0",
    f"{GOOD}    latent = 'no'": "'latent' must be True or False, not 'no'",
    f"{GOOD}    modalities = 'image'": "'modalities' must be some of image, text, as ('image',), not 'image'",
    f"{GOOD}    modalities = ('sound',)": "'modalities' must be some of image, text",
    f"{GOOD}    footnotes = {{'kl': 3}}": "'footnotes' must be texts by column",
    f"{GOOD}    suites = ['core']": "'suites' must be lists of expressions by suite",
    f"{GOOD}    suites = {{'core': ['mine(']}}": "suite 'core': an expression of the method itself expected, got",
    f"{GOOD}    suites = {{'core': ['other']}}": "suite 'core': an expression of the method itself expected, got",
    f"{GOOD}    reduced = {{'quick': {{'b': 1}}}}": "the settings for 'quick' has no setting 'b'",
    f"{GOOD}    neutral = {{'b': 1}}": "the settings for 'neutral' has no setting 'b'",
    f"{GOOD}    shown = ('b',)": "'shown' must be names of settings, not ('b',)",
    f"{GOOD}    class Config:\n        a: int = 1": "'Config' must be a class under @dataclass(frozen=True)",
    f"{GOOD}    @dataclass\n    class Config:\n        a: int = 1": "'Config' must be a class under @dataclass(frozen",
    f"{CONFIG}int": "every setting of 'Config' needs a default",
    f"{CONFIG}set = field(default_factory=set)": "every setting of 'Config' needs a default",
    f"{CONFIG}int = 'text'": "every setting of 'Config' needs a default",
    f"{CONFIG}'Nothing' = 1": "every setting of 'Config' needs a default",
    f"{CONFIG}object = object()": "every setting of 'Config' needs a default",
    f"{GOOD}    phases = ()": "hook 'phases' must be a function, not 'tuple'",
    f"{GOOD}    def rate(self): pass": "hook 'rate' is called as rate(self, terms)",
    f"{GOOD}    def posterior(self, ctx, x): pass": "hook 'posterior' is called as posterior(self, ctx, x, train)",
    f"{GOOD}    def __init__(self): pass": "hook '__init__' is called as __init__(self, config, schedule)",
}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """``file(text)``: a method ``mine`` in a folder of its own."""

    def write(text):
        (tmp_path / "mine.py").write_text(HEAD + text + "\n")

    def forget():
        sys.modules.pop("methods.mine", None)
        vars(methods).pop("mine", None)
        registry.method_names.cache_clear()
        registry._method.cache_clear()

    known = {name: registry.method(name) for name in registry.method_names()}
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget()
    yield write
    forget()
    monkeypatch.undo()
    assert {name: registry.method(name) for name in registry.method_names()} == known


@pytest.mark.parametrize(("text", "message"), FILES.items())
def test_a_file_that_is_wrong_is_said_to_be_and_stops_nobody_else(text, message, file):
    file(text)
    with pytest.raises(UserError) as error:
        variants(["mine"], "quick")
    said = str(error.value)
    assert said.startswith("method 'mine'") and message in said and said.endswith(registry.REPAIR)
    assert [row.expression for row in variants(["vae", "beta_vae(beta=0.2)+anneal", "core"], "quick")[0]]
    with pytest.raises(UserError, match="method 'mine'"):
        variants(["all"], "quick")


def test_a_file_that_is_right_is_found(file):
    file(f"{CONFIG}tuple[int, ...] = (1, 2)\n    suites = {{'core': ['mine(a=3)+anneal']}}")
    assert "mine" in [row.expression for row in variants(["all"], "quick")[0]]


def test_the_list_shows_what_is_broken_and_all_names_it(file, capsys, tmp_path):
    file("print('hello')\nimport nothing_of_that_name")
    assert main(["--list"]) == 0
    printed = capsys.readouterr()
    assert "ModuleNotFoundError" in printed.out and "beta_vae" in printed.out and "glyphs" in printed.out
    assert "hello" not in printed.out and printed.err == "hello\n", (
        "imported once, and what it prints is out of the way"
    )
    assert main(["--methods", "all", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: method 'mine' cannot be imported")
    assert "name the others one by one" in said


def test_two_of_one_name_are_in_doubt_for_those_alone_who_ask(monkeypatch):
    entries = [SimpleNamespace(name="vae", value="their.vae"), SimpleNamespace(name="new", value="json:dumps")]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    registry._method.cache_clear()
    with pytest.raises(UserError, match="method 'vae' is registered twice, by methods.vae and by their.vae"):
        registry.method("vae")
    assert registry.method("beta_vae").name == "beta_vae"
    registry._method.cache_clear()


def broken_data(prepared, tmp_path):
    info = prepared.info
    return {
        "raises": (fail, "cannot be prepared: LookupError: what is"),
        "ends": (lambda *_: sys.exit(2), "cannot be prepared: SystemExit: 2"),
        "nothing": (given(None), "None is none"),
        "arrays": (given({"train": [1]}), "'dict' is none"),
        "info": (given(replace(prepared, info=info.to_json())), "its info is 'dict', not a DataInfo"),
        "modality": (given(replace(prepared, info=replace(info, modality="sound"))), "its modality is 'sound'"),
        "sizes": (given(replace(prepared, info=replace(info, sizes={"train": 3}))), "its sizes are {'train': 3}"),
        "empty": (given(replace(prepared, info=replace(info, sizes={**info.sizes, "val": 0}))), "at least one example"),
        "title": (given(replace(prepared, info=replace(info, title=3))), "its info cannot be stored"),
        "file": (given(replace(prepared, path=Path(tmp_path / "none.npz"))), "none.npz is no file"),
    }


@pytest.mark.parametrize(
    "case", ["raises", "ends", "nothing", "arrays", "info", "modality", "sizes", "empty", "title", "file"]
)
def test_a_data_set_that_is_not_prepared_as_promised_is_named(case, prepared, tmp_path, monkeypatch):
    function, message = broken_data(prepared, tmp_path)[case]
    monkeypatch.setattr(registry, "dataset", lambda name: SimpleNamespace(prepare=function))
    with pytest.raises(UserError) as error:
        prepare("glyphs", None, tmp_path)
    assert str(error.value).startswith("data set 'glyphs'") and message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit", "cannot be imported (their.data): SystemExit"),
        ("", "lacks SUMMARY (a line of text), NEEDS_DOWNLOAD (True or False), prepare (a function)"),
        ("SUMMARY, NEEDS_DOWNLOAD, prepare = 'a', 0, print", "lacks NEEDS_DOWNLOAD"),
    ],
)
def test_a_data_sets_module_that_is_wrong_is_named(text, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "their").mkdir()
    (tmp_path / "their" / "data.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("their", "their.data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    entry = SimpleNamespace(name="theirs", value="their.data")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == registry.DATASETS_GROUP else [])
    with pytest.raises(UserError) as error:
        registry.dataset("theirs")
    assert str(error.value).startswith("data set 'theirs'") and message in str(error.value)
    registry.dataset_names.cache_clear()
    try:
        assert main(["--list"]) == 0
    finally:
        registry.dataset_names.cache_clear()
    assert str(error.value) in (printed := capsys.readouterr().out) and "omniglot" in printed


def test_states_that_pass_survive_a_checkpoint(tmp_path):
    state = {
        "a": [1, (2.0, None)],
        "b": OrderedDict(c=torch.ones(2), d={"e": True}),
        "f": torch.nn.Parameter(torch.ones(1)),
    }
    assert method(state_dict=given(state))().state_dict() is state
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True).keys() == state.keys()
    assert json.loads(json.dumps(state["a"])) == [1, [2.0, None]]
