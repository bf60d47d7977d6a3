"""Methods that adapt a weight, on a model whose KL follows the weight: rec = 20 exp(-KL / 5)."""

import math
from types import SimpleNamespace

import pytest
import torch

from bench.method import Phase
from bench.methods.control_vae import ControlVAE
from bench.methods.geco import GECO, MAX_MULTIPLIER
from bench.methods.mdr import MinimumDesiredRate
from bench.methods.soft_free_bits import SoftFreeBits
from tests.methods.gaussians import context


def optimal_kl(weight: float, scale: float = 20.0) -> float:
    """The KL that minimises scale · exp(-KL / 5) + weight · KL."""
    return max(0.0, 5 * math.log(scale / 5 / max(weight, 1e-9)))


def test_mdr_reaches_its_target():
    method = MinimumDesiredRate(MinimumDesiredRate.Config(target=9.0, start=0.5, lr=1e-3))
    kl = 0.0
    for _ in range(4000):
        kl += 0.2 * (optimal_kl(1 - method.multiplier.item()) - kl)
        method.update_weight(context(), torch.tensor(kl))
    assert kl == pytest.approx(9.0, rel=0.05)
    assert 0 < method.multiplier < 1


def test_mdr_is_inactive_above_its_target():
    method = MinimumDesiredRate(MinimumDesiredRate.Config(target=5.0))
    for _ in range(2000):
        method.update_weight(context(), torch.tensor(7.0))
    assert method.multiplier == 0
    assert method.kl_loss(SimpleNamespace(kl=torch.tensor([7.0]))) == 7.0


def test_soft_free_bits_change_the_weight_by_ten_per_cent():
    method = SoftFreeBits(SoftFreeBits.Config(target=5.0, start=0.5))
    for kl, weight in [(5.3, 0.55), (5.2, 0.55), (4.9, 0.5), (4.9, 0.5 / 1.1)]:
        method.update_weight(context(), torch.tensor(kl))
        assert method.weight.item() == pytest.approx(weight)


@pytest.mark.parametrize(("target", "expected"), [(9.0, 9.2), (3.0, optimal_kl(1.0))])
def test_soft_free_bits_keep_the_kl_at_or_above_their_target(target, expected):
    method = SoftFreeBits(SoftFreeBits.Config(target=target))
    kl, last = 0.0, []
    for _ in range(2000):
        kl += 0.2 * (optimal_kl(method.weight.item()) - kl)
        method.update_weight(context(), torch.tensor(kl))
        last.append(kl)
    assert sum(last[1000:]) / 1000 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("stuck", "bound"), [(0.0, 0), (400.0, 1)])
def test_control_vae_recovers_from_saturation(stuck, bound):
    method = ControlVAE(ControlVAE.Config(target=9.0, ki=-1e-3))
    for _ in range(5000):  # far from the target, whatever the weight
        method.update_weight(context(), torch.tensor(stuck))
    assert method.weight.item() == pytest.approx(bound, abs=1e-5)
    kl = 40.0
    for step in range(4000):
        kl += 0.2 * (optimal_kl(method.weight.item()) - kl)
        method.update_weight(context(), torch.tensor(kl))
        if step == 200:
            assert 0 < method.weight < 1, "still saturated"
    assert kl == pytest.approx(9.0, rel=0.05)


def test_mdr_rewards_the_kl_below_its_target():
    method, kl = MinimumDesiredRate(), torch.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(1000):
        method.update_weight(context(), torch.tensor(1.5))
    method.kl_loss(SimpleNamespace(kl=kl)).backward()
    assert (kl.grad < 0).all()
    assert kl.grad.sum() > -0.2, "far above 1 the KL overshoots"


def test_controllers_update_once_per_step_from_its_batch():
    method = MinimumDesiredRate(MinimumDesiredRate.Config(target=5.0, start=0.5, lr=0.01))
    terms = SimpleNamespace(kl=torch.tensor([2.0, 4.0]), rec=torch.tensor([[1.0], [3.0]]))
    method.elbo_terms = lambda ctx, x: terms

    def update(objective):
        objective()  # an update may compute its objective more than once
        return objective()

    ctx = context(update=update)
    assert method.step(ctx, None).item() == 2 + 3 + 0.5 * (5 - 3)
    rms = math.sqrt(0.01 * (5 - 3) ** 2)
    assert method.multiplier.item() == pytest.approx(0.5 + 0.01 * (5 - 3) / rms)
    state = method.state_dict()
    method.objective(ctx, None)
    assert method.state_dict() == state, "a loss changes no state"


class Decoder:
    """rec = scale · exp(-KL / 5) - gain · steps, whose KL follows the weight of the KL in about 20 steps."""

    def __init__(self, scale: float = 20.0, gain: float = 0.0) -> None:
        self.scale, self.gain, self.kl, self.steps = scale, gain, 0.0, 0

    def rec(self, kl: float) -> float:
        return self.scale * math.exp(-kl / 5) - self.gain * self.steps

    def train(self, method: GECO, phase: Phase, steps: int) -> None:
        ctx = context(phase=phase, val={}, step=0, total=math.inf)
        for _ in range(steps):
            self.kl += (optimal_kl(1 / method.multiplier.item(), self.scale) - self.kl) / 20
            self.steps += 1
            method.update_weight(ctx, torch.tensor(self.rec(self.kl)))
            if not self.steps % 50:
                ctx.val["kl"] = self.kl
                method.on_epoch_end(ctx)


@pytest.mark.parametrize("kappa", [12.0, 3.0, 1.0])
def test_geco_meets_a_given_constraint(kappa):
    """With the settings of the reduced presets; the basic VAE has a KL of 6.9 and a reconstruction of 5."""
    method, decoder = GECO(GECO.Config(kappa=kappa, **GECO.preset_overrides["quick"])), Decoder()
    first, main = method.phases()
    decoder.train(method, first, 500)
    assert method.multiplier == 1
    decoder.train(method, main, 3000)
    assert decoder.rec(decoder.kl) == pytest.approx(kappa, rel=0.05) and method.kappa == pytest.approx(kappa)
    assert 1 / MAX_MULTIPLIER < method.multiplier < MAX_MULTIPLIER


def test_geco_takes_kappa_from_the_basic_vae():
    method, events = GECO(), []
    vae, main = (context(phase=phase, log_event=events.append, step=0, total=9) for phase in method.phases())
    for rec in (500.0, 40.0, 42.0):
        for noise in (-3, 3) * 15:
            method.update_weight(vae, torch.tensor(rec + noise))
        method.on_epoch_end(vae)
    method.on_phase_start(main)
    assert method.kappa.item() == pytest.approx(42 - method.config.margin) and "38.00" in events[0]


def test_geco_keeps_kappa_below_what_is_reached_without_z():
    """A decoder that improves by 8 nats after the first phase reaches the first κ without z."""
    method, decoder = GECO(GECO.Config(**GECO.preset_overrides["quick"])), Decoder(scale=6.0, gain=0.01)
    first, main = method.phases()
    decoder.train(method, first, 200)
    first_kappa = method.kappa.item()
    decoder.train(method, main, 800)
    assert decoder.rec(kl=0) < first_kappa
    assert method.kappa < decoder.rec(kl=0) - 1 and decoder.kl > 0.5 * method.config.margin
