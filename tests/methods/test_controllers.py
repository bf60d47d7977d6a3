"""Methods that adapt a weight, on a model whose KL follows the weight: rec = 20 exp(-KL / 5)."""

import math
from types import SimpleNamespace

import pytest
import torch

from bench.methods.control_vae import ControlVAE
from bench.methods.geco import GECO
from bench.methods.mdr import MinimumDesiredRate
from bench.methods.soft_free_bits import SoftFreeBits
from tests.methods.gaussians import context


def optimal_kl(weight: float) -> float:
    """The KL that minimises rec + weight · KL."""
    return 5 * math.log(4 / max(weight, 1e-9)) if weight < 4 else 0.0


def test_mdr_reaches_its_target():
    method = MinimumDesiredRate(MinimumDesiredRate.Config(target=9.0, start=0.5, lr=1e-3))
    kl = 0.0
    for _ in range(4000):
        kl += 0.2 * (optimal_kl(1 - method.multiplier.item()) - kl)
        method.update_weight(torch.tensor(kl))
    assert kl == pytest.approx(9.0, rel=0.05)
    assert 0 < method.multiplier < 1


def test_mdr_is_inactive_above_its_target():
    method = MinimumDesiredRate(MinimumDesiredRate.Config(target=5.0))
    for _ in range(2000):
        method.update_weight(torch.tensor(7.0))
    assert method.multiplier == 0
    assert method.kl_loss(SimpleNamespace(kl=torch.tensor([7.0]))) == 7.0


def test_soft_free_bits_change_the_weight_by_ten_per_cent():
    method = SoftFreeBits(SoftFreeBits.Config(target=5.0, start=0.5))
    for kl, weight in [(5.3, 0.55), (5.2, 0.55), (4.9, 0.5), (4.9, 0.5 / 1.1)]:
        method.update_weight(torch.tensor(kl))
        assert method.weight.item() == pytest.approx(weight)


@pytest.mark.parametrize(("target", "expected"), [(9.0, 9.2), (3.0, optimal_kl(1.0))])
def test_soft_free_bits_keep_the_kl_at_or_above_their_target(target, expected):
    method = SoftFreeBits(SoftFreeBits.Config(target=target))
    kl, last = 0.0, []
    for _ in range(2000):
        kl += 0.2 * (optimal_kl(method.weight.item()) - kl)
        method.update_weight(torch.tensor(kl))
        last.append(kl)
    assert sum(last[1000:]) / 1000 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("stuck", "bound"), [(0.0, 0), (400.0, 1)])
def test_control_vae_recovers_from_saturation(stuck, bound):
    method = ControlVAE(ControlVAE.Config(target=9.0, ki=-1e-3))
    for _ in range(5000):  # far from the target, whatever the weight
        method.update_weight(torch.tensor(stuck))
    assert method.weight.item() == pytest.approx(bound, abs=1e-5)
    kl = 40.0
    for step in range(4000):
        kl += 0.2 * (optimal_kl(method.weight.item()) - kl)
        method.update_weight(torch.tensor(kl))
        if step == 200:
            assert 0 < method.weight < 1, "still saturated"
    assert kl == pytest.approx(9.0, rel=0.05)


def test_geco_meets_its_constraint():
    method = GECO(GECO.Config(kappa=3.0, memory=0.9))
    ctx, kl = context(), 0.0
    for _ in range(4000):
        kl += 0.2 * (optimal_kl(1 / method.multiplier.item()) - kl)
        method.measured = torch.tensor(20 * math.exp(-kl / 5))
        method.on_step_end(ctx)
    assert 20 * math.exp(-kl / 5) == pytest.approx(3.0, rel=0.05)


def test_geco_takes_kappa_from_the_autoencoder_last_epoch():
    method, events = GECO(), []
    pretraining, main = (context(phase=phase, log_event=events.append) for phase in method.phases())
    for rec in (500.0, 40.0, 42.0):
        for _ in range(30):
            method.measured = torch.tensor(rec)
            method.on_step_end(pretraining)
        method.on_epoch_end(pretraining)
    method.on_phase_start(main)
    assert method.kappa.item() == pytest.approx(42 + method.config.margin) and "43.00" in events[0]
