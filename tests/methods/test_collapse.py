"""Posterior collapse on synthetic text: the basic VAE collapses, although the decoder can use z."""

import json

import pytest

from bench.data.cache import cache_dir
from bench.reporting.assay import MAX_LEAK, MIN_USE
from bench.run import main

METHODS = ("autoregressive", "autoencoder", "shuffled_encoder", "vae")


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """``evaluate("vae,aggressive", …)`` -> the evaluation of every method on synthetic text, by name."""
    if not cache_dir().exists():
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))

    def run(methods, *arguments):
        command = ["--methods", methods, "--dataset", "synthetic", "--executor", "local", "--out", str(tmp_path)]
        assert main([*command, *arguments]) == 0
        files = {name: next(tmp_path.glob(f"runs/synthetic/*/{name}/*/evaluation.json")) for name in methods.split(",")}
        return {name: json.loads(file.read_text())["evaluation"] for name, file in files.items()}

    return run


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_vae_collapses_and_its_controls_pass(evaluate):
    records = evaluate(",".join(METHODS))
    metrics = {name: record["metrics"] for name, record in records.items()}
    assert metrics["vae"]["mi"] < 0.1 and metrics["vae"]["au"] == 0
    assert metrics["vae"]["iw_nll"] < metrics["autoregressive"]["iw_nll"] + 1, "worse than the decoder alone"
    assert metrics["autoencoder"]["shuffle_gap"] >= MIN_USE
    assert metrics["shuffled_encoder"]["mi"] < 0.1 and abs(metrics["shuffled_encoder"]["shuffle_gap"]) < MAX_LEAK
    for name in ("autoregressive", "shuffled_encoder", "vae"):
        reference = records[name]["references"]
        floor = reference["true_generator"] - 3 * reference["true_generator_se"]
        assert floor < metrics[name]["iw_nll"] < 0.8 * reference["unigram"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_aggressive_training_keeps_z_in_use(evaluate):
    """At the sizes of preset ``small``, with as many updates of the encoder as the basic VAE has."""
    mi = {}
    for name, updates in {"aggressive": 50, "vae": 2000}.items():
        settings = (f"train.epoch_updates={updates}", "train.epochs=1", "train.decay_from=0")
        settings += ("train.extra_updates_until=1.0", "evaluation.iw_samples=20", "evaluation.metrics=()")
        options = [part for setting in settings for part in ("--set", setting)]
        records = evaluate(name, "--preset", "small", "--seeds", "1", "--no-controls", *options)
        mi[name] = records[name]["metrics"]["mi"]
    assert mi["aggressive"] > 0.5 and mi["vae"] < 0.1
