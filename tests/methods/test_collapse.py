"""The phenomenon itself, where anyone can watch it: the basic VAE collapses, aggressive training does not (He et al.,
2019), and no model beats the law that made the data."""

import json

import pytest

from bench.data.cache import cache_dir
from bench.run import main

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)
def test_the_basic_vae_collapses_and_aggressive_training_does_not(tmp_path, monkeypatch):
    if not cache_dir().exists():
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    methods = "autoregressive,vae,aggressive"
    assert main(["--methods", methods, "--dataset", "synthetic", "--executor", "local", "--out", str(tmp_path)]) == 0
    runs = tmp_path / "runs" / "synthetic" / "quick"
    records = {
        name: json.loads(next(runs.glob(f"{name}/*/evaluation.json")).read_text()) for name in methods.split(",")
    }
    metrics = {name: record["metrics"] for name, record in records.items()}
    assert metrics["vae"]["mi"] < 0.1 and metrics["vae"]["au"] == 0
    assert metrics["vae"]["nll"] < metrics["autoregressive"]["nll"] + 1, "it has learned as much as the decoder alone"
    assert metrics["aggressive"]["mi"] > 0.5 and metrics["aggressive"]["au"] > 0
    for name, record in records.items():
        floor = record["references"]["true_generator"] - 3 * record["references"]["true_generator_se"]
        assert floor < metrics[name]["nll"] < 0.8 * record["references"]["unigram"]
