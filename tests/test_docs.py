"""The documentation against the code: generated pages, names of metrics and methods, examples, numbers, links."""

import dataclasses
import inspect
import math
import re
from collections import defaultdict
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from bench import methods
from bench.core.config import GROUPS, EvaluationConfig
from bench.core.files import dumps
from bench.data import tensors
from bench.evaluation import metric_groups as groups
from bench.evaluation.estimators import ais as annealed
from bench.evaluation.estimators import latent_usage as usage
from bench.evaluation.estimators import linear_probe as representation
from bench.evaluation.estimators import proposal
from bench.evaluation.estimators.likelihood import importance_weighted_nll, nll_standard_error
from bench.evaluation.estimators.mutual_information import kl_aggregate_reverse
from bench.evaluation.evaluator import COLLAPSED_DIMENSION, EPSILONS, evaluate
from bench.evaluation.metrics import COLLAPSED_BELOW, EvaluationContext
from bench.reporting.columns import UNRELIABLE_K
from bench.reporting.frame import metric_names
from bench.reporting.statistics import student_t
from bench.training import registry
from bench.training.factory import build_from_config
from tests.conftest import EVALUATION, MODEL, TEXT_MODEL, TRAIN, assert_equal_weights
from tests.evaluation.linear_gaussian import LinearGaussian, generator
from tests.methods.test_contract import one, unknown, weights

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
METHODS = registry.method_names()
WORDS = {4: "Four", 5: "Five"}
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"])


def load_generate() -> ModuleType:
    spec = util.spec_from_file_location("generate", DOCS / "generate.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outside_of_code(page: Path) -> str:
    """The text of a page without its code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{number}" if number else slug)
    return set(found)


def test_generated_pages_are_current():
    generate = load_generate()
    for path, text in generate.pages().items():
        assert path.read_text("utf-8") == text, f"{path.name} is not what the code says now: {generate.COMMAND}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", outside_of_code(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(there), f"{there.name} has no heading for #{anchor}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_in_the_index(page):
    assert page.name == "README.md" or f"({page.name})" in (DOCS / "README.md").read_text("utf-8")


@pytest.mark.parametrize("expression", ["vae", "autoregressive"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_every_metric_is_documented(expression, modality, request):
    text = modality == "text"
    cell = request.getfixturevalue("text_planned" if text else "planned")(expression)
    prepared = request.getfixturevalue("text_prepared" if text else "prepared")
    method, model, seed = build_from_config(cell.config)
    data = tensors.load(prepared, TEXT_MODEL if text else MODEL)
    labels = {split: np.arange(len(getattr(data, split))) % 3 for split in ("train", "val", "test")}
    sizes = {f"{group}_examples": 3 for group in GROUPS} | {"probe_examples": 60, "pictures": 0}
    sizes |= {"refined_iw_steps": 2, "refined_iw_samples": 25, "ais_steps": 2, "ais_chains": 2}
    config = dataclasses.replace(EVALUATION, metrics=GROUPS, **sizes)
    record = evaluate(method, model, dataclasses.replace(data, labels=labels), TRAIN, config, seed).record
    documented = set(re.findall(r"`(\w+)`", (DOCS / "metrics.md").read_text("utf-8")))
    history = {"lag", "lag_kl"}
    assert {*record["metrics"], *record["references"], *history} - documented == set()
    assert dumps(record)


def test_every_column_that_reports_know_is_documented():
    documented = set(re.findall(r"`(\w+)`", (DOCS / "metrics.md").read_text("utf-8")))
    assert {*metric_names()} - documented == set()


def test_metrics_that_cannot_be_given_are_those_of_the_table(planned, text_planned, prepared, text_prepared):
    page = (DOCS / "metrics.md").read_text("utf-8")
    table = page.partition("| where | cannot be given | because | methods |")[2].partition("\n\n")[0]
    documented = defaultdict(set)
    for row in table.splitlines()[2:]:
        _, _, metrics, _, names, _ = re.split(r"(?<!\\)\|", row)
        for metric in re.findall(r"`(\w+)`", metrics):
            documented[metric] |= {*re.findall(r"`(\w+)`", names)}
    found = defaultdict(set)
    data = {"image": tensors.load(prepared, MODEL), "text": tensors.load(text_prepared, TEXT_MODEL)}
    for name in METHODS:
        modality = one(name)
        method, model, _ = build_from_config((text_planned if modality == "text" else planned)(name).config)
        if method.latent:
            _, (x,) = data[modality].blocks("test", 2, 2)
            ctx = EvaluationContext(model.eval(), data[modality].info, TRAIN, 0)
            for metric in unknown(method.posterior(ctx, x, train=False), model.prior):
                found[metric].add(name)
    assert {metric: documented[metric] for metric in found} == found


def test_the_families_are_those_of_the_methods():
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (`.*) \|$", text, re.MULTILINE)
    documented = {family: {*re.findall(r"`(\w+)`", names)} for family, names in rows}
    families = defaultdict(set)
    for name in METHODS:
        families[registry.method(name).family].add(name)
    assert documented == families
    assert {44: "Forty-four"}[len(METHODS)] in text


@pytest.mark.parametrize(("page", "name"), [("README.md", "kl_capacity"), ("CONTRIBUTING.md", "kl_target")])
def test_a_method_as_printed_runs(page, name, text_trainer, tmp_path, monkeypatch):
    """Saved as the page says: with its neutral settings it is the basic VAE, with its defaults it is not."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (code,) = [block for block in blocks if "(Method):" in block]
    assert f"`methods/{name}.py`" in (ROOT / page).read_text("utf-8")
    (tmp_path / f"{name}.py").write_text(code, "utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "method_names", lambda: tuple(sorted([*METHODS, name])))
    neutral = ",".join(f"{key}={value}" for key, value in registry.method(name).vae_settings.items())
    ends = {}
    for row in (f"{name}({neutral})", name, "vae"):
        text_trainer(row, tmp_path / row).run()
        ends[row] = weights(tmp_path / row)
    assert_equal_weights(ends[f"{name}({neutral})"], ends["vae"])
    assert any(not torch.equal(weight, ends["vae"][key]) for key, weight in ends[name].items())


def test_constants_are_as_documented():
    text = " ".join((DOCS / "metrics.md").read_text("utf-8").split())
    threshold = {
        name: inspect.signature(function).parameters["threshold"].default
        for name, function in vars(usage).items()
        if name in ("active_units", "informative_units", "variance_ratio_units")
    }
    reverse = inspect.signature(kl_aggregate_reverse).parameters["samples"].default
    refinement = inspect.signature(proposal.refined_proposal).parameters
    for sentence in (
        f"`mi` < {COLLAPSED_BELOW} nats",
        f"Var_n(E_q z_d) > {threshold['active_units']} ",
        f"E_n KL_d > {threshold['informative_units']} nats",
        f"E_n σ²_d) > {threshold['variance_ratio_units']} ",
        f"at ε = δ = {COLLAPSED_DIMENSION} ",
        f"over {len(EPSILONS)} values of ε from {EPSILONS[0]:g} to {EPSILONS[-1]:g}",
        f"with scales {proposal.WIDER} times as wide",
        f"{refinement['samples'].default} samples a step",
        f"the scale starts at {proposal.NARROW} for all",
        f"move of {annealed.LEAPFROGS} leapfrog steps",
        f"(aim: {annealed.ACCEPTED:.0%} accepted)".replace("%", " %"),
        f"from {reverse:,} samples of the prior",
        f"`refined_iw_steps` = {EvaluationConfig().refined_iw_steps} steps",
        f"`refined_iw_samples` = {EvaluationConfig().refined_iw_samples} samples",
        f"{WORDS[groups.USE_SAMPLES]} samples of z for each of `latent_use_examples`",
        f"stratified {WORDS[representation.FOLDS].lower()}-fold cross-validation",
        f"Above {UNRELIABLE_K} the estimate is not to be trusted",
    ):
        assert sentence in text, f"metrics.md does not say: {sentence}"


def test_the_example_of_the_refined_proposal_is_as_documented():
    """The third row of the table in metrics.md: the plain estimate is a nat too high, the common proposal is not."""
    (row,) = re.findall(r"^\| its means off by 0.3 \|(.*)\|$", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE)
    elbo, _, iw_500, *_, common = (float(number) for number in row.split("|"))
    model = LinearGaussian(8, 1.0, pixels=20)
    x = model.data(60)
    truth, q = -model.log_px(x), model.mean_field(x, 0.3)
    z = q.rsample(500, generator(1))
    weights = model.log_prob(x, z) + model.prior.log_prob(z) - q.log_prob(z)
    refined = proposal.refined_log_weights(model, x, q, generator(2), chunk=100).log_weights
    assert (-weights.mean(1) - truth).mean().item() == pytest.approx(elbo, abs=0.3)
    assert (importance_weighted_nll(weights) - truth).mean().item() == pytest.approx(iw_500, abs=0.2)
    assert (importance_weighted_nll(refined) - truth).mean().item() == pytest.approx(common, abs=0.04)
    assert nll_standard_error(weights).square().sum().sqrt().item() / len(x) < 0.1, "the error does not see the bias"


def test_the_table_of_few_seeds_is_right():
    rows = re.findall(
        r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", (DOCS / "statistics.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) == 6
    for seeds, half, p in rows:
        n = int(seeds)
        assert float(half) == pytest.approx(student_t(0.975, n - 1) / math.sqrt(n), abs=0.006)
        assert float(p) == pytest.approx(2 / 2**n, rel=0.02)
