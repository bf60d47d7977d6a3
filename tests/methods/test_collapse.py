"""Posterior collapse on synthetic text: the basic VAE collapses, although the decoder can use z."""

import json

import pytest

from bench.data.cache import cache_dir
from bench.reporting.assay import MAX_LEAK, MIN_USE
from bench.run import main

METHODS = ("autoregressive", "autoencoder", "shuffled_encoder", "vae")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_vae_collapses_and_its_controls_pass(tmp_path, monkeypatch):
    if not cache_dir().exists():
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    arguments = ["--methods", ",".join(METHODS), "--dataset", "synthetic", "--executor", "local"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    files = {name: next(tmp_path.glob(f"runs/synthetic/quick/{name}/*/evaluation.json")) for name in METHODS}
    records = {name: json.loads(file.read_text())["evaluation"] for name, file in files.items()}
    metrics = {name: record["metrics"] for name, record in records.items()}
    assert metrics["vae"]["mi"] < 0.1 and metrics["vae"]["au"] == 0
    assert metrics["vae"]["nll"] < metrics["autoregressive"]["nll"] + 1, "worse than the decoder alone"
    assert metrics["autoencoder"]["shuffle_gap"] >= MIN_USE
    assert metrics["shuffled_encoder"]["mi"] < 0.1 and abs(metrics["shuffled_encoder"]["shuffle_gap"]) < MAX_LEAK
    for name in ("autoregressive", "shuffled_encoder", "vae"):
        reference = records[name]["references"]
        floor = reference["true_generator"] - 3 * reference["true_generator_se"]
        assert floor < metrics[name]["nll"] < 0.8 * reference["unigram"]
