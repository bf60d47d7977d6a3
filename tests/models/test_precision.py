"""Reduced precision of the networks: what is rounded, and what stays in float32."""

import math
from dataclasses import replace

import pytest
import torch

from bench.core.errors import UserError
from bench.evaluation.estimators.mutual_information import sample_log_probs
from bench.experiment.factory import build_from_config
from bench.models.precision import autocast, no_autocast
from tests.conftest import TEXT_TOY, TOY


@pytest.fixture(params=["image", "text"])
def make(request):
    """``make(expression, folder, train)``: a trainer of either modality, and its preset as ``make.preset``."""
    trainer = request.getfixturevalue("trainer" if request.param == "image" else "text_trainer")
    trainer.preset = TOY if request.param == "image" else TEXT_TOY
    return trainer


def test_quantities_computed_from_the_networks_stay_float32(make, tmp_path):
    run = make("vae", tmp_path)
    run.model.eval()
    x = run.ctx.next_main_batch()
    with autocast(run.model, "bfloat16"):
        assert run.model.features(x).dtype == torch.bfloat16
        q = run.model.encode(x)
        z = q.rsample(2)
        log_px = run.model.log_prob(x, z)
        log_q = sample_log_probs([q], z[:, 0]).own
    assert {t.dtype for t in (q.mean, q.logvar, z, log_px, run.model.prior.kl(q))} == {torch.float32}
    assert log_q.dtype == torch.float64 and torch.allclose(log_q, q.log_prob(z)[:, 0].double(), atol=1e-4)
    exact = run.model.log_prob(x, z)
    assert not torch.equal(log_px, exact), "nothing was rounded"
    assert torch.allclose(log_px, exact, rtol=1e-2)
    with autocast(run.model, "bfloat16"), no_autocast("cpu"):
        assert torch.equal(run.model.log_prob(x, z), exact)
    assert not run.model.head._forward_hooks and not run.model.head._forward_pre_hooks


@pytest.mark.parametrize(
    "expression", ["vae", *(pytest.param(e, marks=pytest.mark.slow) for e in ("sa_vae(steps=2)", "aggressive"))]
)
def test_bfloat16_training_is_close_to_float32(make, tmp_path, expression):
    """Factors of products are rounded to 8 bits; in sums over a layer and a batch the errors mostly cancel."""
    exact, rounded = (
        make(expression, tmp_path / name, replace(make.preset.train, precision=name))
        for name in ("float32", "bfloat16")
    )
    exact.run()
    rounded.run()
    for expected, result in zip(exact.history, rounded.history, strict=True):
        assert math.isclose(result.train_loss, expected.train_loss, rel_tol=0.01)
        for name in ("elbo", "rec"):
            assert math.isclose(result.metrics[name], expected.metrics[name], rel_tol=0.01), name
    assert not all(map(torch.equal, exact.model.parameters(), rounded.model.parameters())), "nothing was rounded"
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in rounded.model.parameters() if p.grad is not None)
    states = [value for o in rounded.ctx.optimisers.values() for s in o.state.values() for value in s.values()]
    assert {t.dtype for t in states if isinstance(t, torch.Tensor)} <= {torch.float32}
    assert rounded.ctx.flops_by_kind == exact.ctx.flops_by_kind


def test_tf32_needs_a_gpu(planned):
    _, model, _ = build_from_config(planned("vae").config)
    with pytest.raises(UserError, match="needs a GPU"), autocast(model, "tf32"):
        pass
