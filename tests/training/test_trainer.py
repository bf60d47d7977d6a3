"""The trainer: selection, learning-rate decay, phases, resuming, failures."""

import math
from dataclasses import replace

import pytest
import torch

from bench.method import Method, Phase
from bench.training.trainer import NonFiniteLoss
from tests.conftest import TRAIN, assert_equal_weights


def with_validations(run, elbos, losses=None):
    """Make validation report these values, one after the other."""
    values = iter(zip(elbos, losses or elbos, strict=True))

    def validate(*_):
        elbo, loss = next(values)
        return {"elbo": elbo, "loss": loss, "mi": 1.0, "mi_batch": 1.0}

    run.validate = validate
    return run


def with_method(run, method):
    """Replace the method of a trainer."""
    run.method = run.ctx.method = method
    run.phases = list(method.phases())
    return run


class TwoPhases(Method):
    name = "two_phases"

    def __init__(self):
        super().__init__()
        self.started = []

    def phases(self):
        return Phase("first", 0.5), Phase("second", 0.5)

    def on_phase_start(self, ctx):
        self.started.append((ctx.phase.name, ctx.step))


def best_weights(folder):
    return torch.load(folder / "best.pt", weights_only=True)["model"]


def test_decays_restore_the_best_weights_and_end_training(trainer, tmp_path):
    config = replace(TRAIN, epochs=8, patience=2, max_decays=2)
    run = with_validations(trainer("vae", tmp_path, config), [-10, -9, -11, -12, -13, -14, -15, -16])
    result = run.run()
    assert result.stopped_by == "decays" and result.best_update == 8
    assert [line.selected for line in run.history] == [True, True, False, False, False, False]
    assert [line.lr for line in run.history] == pytest.approx([1e-3] * 4 + [5e-4] * 2)
    assert_equal_weights(run.model.state_dict(), best_weights(tmp_path))


def test_decay_resets_optimisers_but_not_the_method(trainer, tmp_path):
    run = with_validations(trainer("aggressive", tmp_path, replace(TRAIN, patience=2)), [-1, -2, -3])
    run.run()
    assert run.state.decays == 1 and run.state.lr == 5e-4
    assert all(not optimiser.state for optimiser in run.ctx.optimisers.values())
    assert run.ctx.encoder_updates > 0


def test_nothing_is_selected_during_warm_up(trainer, tmp_path):
    run = with_validations(trainer("vae+anneal", tmp_path, replace(TRAIN, ramp=0.5)), [-1, -2, -3])
    run.run()
    assert [line.selected for line in run.history] == [False, True, False]
    assert run.history[0].beta < 1 == run.history[1].beta


def test_last_weights_are_kept_without_a_selection(trainer, tmp_path):
    run = with_validations(trainer("vae+anneal", tmp_path, replace(TRAIN, ramp=1.0)), [-1, -2, -3])
    assert run.run().best_update is None
    assert_equal_weights(run.model.state_dict(), best_weights(tmp_path))


@pytest.mark.parametrize("metric, best, decays", [("elbo", 4, 3), ("loss", 16, 0), (None, None, 9)])
def test_selection_metric_of_a_phase(metric, best, decays, trainer, tmp_path):
    run = trainer("vae", tmp_path, replace(TRAIN, epochs=4, patience=1, max_decays=9))
    run = with_validations(run, elbos=[-1.0, -2.0, -3.0, -4.0], losses=[9.0, 8.0, 7.0, 6.0])
    run.phases = [Phase(selection_metric=metric)]
    assert run.run().best_update == best
    assert run.state.decays == decays


@pytest.mark.parametrize(("share", "full", "rates"), [(0.5, 9, [5e-4, 2.5e-4, 2.5e-4]), (0.25, 11, [2.5e-4])])
def test_rate_decays_until_80_percent_without_a_selection(share, full, rates, trainer, tmp_path):
    """Only in the last phase, whose weights are kept; in one that starts later, until its middle."""
    run = trainer("vae", tmp_path, replace(TRAIN, epochs=12, max_decays=2))
    run.phases = [Phase("first", 1 - share, selection_metric=None), Phase("second", share, selection_metric=None)]
    run.run()
    assert [line.lr for line in run.history] == pytest.approx([1e-3] * full + rates)


def test_phases_share_the_budget(trainer, tmp_path):
    run = with_method(trainer("vae", tmp_path, replace(TRAIN, epochs=4)), TwoPhases())
    result = run.run()
    assert run.method.started == [("first", 0), ("second", 8)]
    assert [line.phase for line in run.history] == ["first"] * 2 + ["second"] * 2
    assert result.updates_by_kind == {"first: encoder+decoder": 8, "second: encoder+decoder": 8}


def test_every_phase_has_an_epoch(trainer, tmp_path):
    run = trainer("vae", tmp_path, replace(TRAIN, epochs=3))
    run.phases = [Phase(name, share) for name, share in (("first", 0.01), ("second", 0.98), ("third", 0.01))]
    run.run()
    assert [line.phase for line in run.history] == ["first", "second", "third"]
    with pytest.raises(ValueError, match="2 phases of method 'geco' need"):
        trainer("geco", tmp_path / "geco", replace(TRAIN, epochs=1))


def test_decays_end_the_phase_not_the_run(trainer, tmp_path):
    config = replace(TRAIN, epochs=8, patience=1, max_decays=2)
    run = with_method(trainer("vae", tmp_path, config), TwoPhases())
    result = with_validations(run, [-1, -2, -3, -1, -2, -3, -4, -5]).run()
    assert [line.phase for line in run.history] == ["first"] * 3 + ["second"] * 3
    assert result.stopped_by == "decays" and result.best_update == 16


@pytest.mark.parametrize(("decay_from", "decays"), [(0, [2, 3, 6, 7]), (2, [3, 6, 7]), (4, [6, 7]), (8, [])])
def test_decay_from_counts_epochs_of_all_phases(decay_from, decays, trainer, tmp_path):
    config = replace(TRAIN, epochs=8, patience=1, max_decays=9, decay_from=decay_from)
    run = with_method(trainer("vae", tmp_path, config), TwoPhases())
    with_validations(run, [-1, -2, -1.5, -2] * 2).run()
    rates = [line.lr for line in run.history]
    falls = [epoch for epoch in range(1, 8) if rates[epoch] < rates[epoch - 1]]
    assert falls == decays


def test_resume_after_a_decay_is_bit_exact(trainer, tmp_path):
    elbos = [-1.0, -2.0, -1.5, -0.5, -3.0, -4.0]
    config = replace(TRAIN, epochs=6, patience=2, max_decays=3)
    whole = with_validations(trainer("vae", tmp_path / "whole", config), elbos)
    whole.run()
    with pytest.raises(StopIteration):
        with_validations(trainer("vae", tmp_path / "stopped", config), elbos[:4]).run()
    resumed = with_validations(trainer("vae", tmp_path / "stopped", config), elbos[4:])
    resumed.run()
    assert (resumed.state.decays, resumed.state.resumes) == (whole.state.decays, 1)
    assert_equal_weights(resumed.model.state_dict(), whole.model.state_dict())
    strip = [line.model_copy(update={"seconds": 0}) for line in whole.history]
    assert [line.model_copy(update={"seconds": 0}) for line in resumed.history] == strip


class Diverges(Method):
    name = "diverges"

    def loss(self, ctx, terms):
        return super().loss(ctx, terms) * (math.nan if ctx.step == 6 else 1)


def test_error_of_a_method_damages_no_checkpoint(trainer, tmp_path):
    class CannotLoad(Method):
        name = "cannot_load"

        def load_state_dict(self, state):
            raise KeyError("momentum")

    trainer("vae", tmp_path).run()
    run = trainer("vae", tmp_path)
    run.method = CannotLoad()
    with pytest.raises(KeyError, match="momentum") as error:
        run.resume()
    assert error.value.__notes__ == ["in load_state_dict of method 'cannot_load'"]
    assert (tmp_path / "last.pt").exists()


def test_nan_loss_names_update_and_method(trainer, tmp_path):
    run = with_method(trainer("vae", tmp_path), Diverges())
    with pytest.raises(NonFiniteLoss, match=r"at update 7: loss nan, β 1, lr 0.001, elbo -\d") as caught:
        run.run()
    assert caught.value.__notes__ == ["in method 'diverges'"]


class EncoderOnly(Method):
    name = "encoder_only"

    def step(self, ctx, x):
        return ctx.update(lambda: self.objective(ctx, x), ["encoder"])


class Twice(Method):
    name = "twice"

    def step(self, ctx, x):
        super().step(ctx, x)
        return super().step(ctx, x)


@pytest.mark.parametrize(("method", "number"), [(EncoderOnly, 0), (Twice, 2)])
def test_a_step_makes_one_decoder_update(method, number, trainer, tmp_path):
    with pytest.raises(RuntimeError, match=rf"'{method.name}' made {number} decoder updates"):
        with_method(trainer("vae", tmp_path), method()).run()


def test_every_checkpoint_is_reported(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    run, reports = trainer("vae", tmp_path), []
    run.report = lambda history, update: reports.append((len(history), update))
    run.run()
    per_epoch = run.epoch_updates
    assert reports == [(update // per_epoch, update) for update in range(1, run.ctx.total + 1)]


def test_observer_sees_every_step_off_the_clock(trainer, tmp_path):
    run, steps = trainer("vae", tmp_path), []

    def observer(ctx):
        steps.append(ctx.step)
        assert ctx.clock.purpose == "validation"

    run.observer = observer
    assert run.run().updates == run.ctx.total
    assert steps == list(range(run.ctx.total + 1))
