"""Estimates of the cost of a step against the FLOPs of one step of the models of preset ``small``."""

import pytest

from bench.experiment.benchmark import random_data
from bench.training import registry
from bench.training.torch_setup import torch_settings
from tests.conftest import planner, trainers

#: Methods whose updates cost more than those of the basic VAE, without inner loops that end by a rule.
DEARER = "iwae dreg implicit_vae infomax_vae neural_critic coupled_vae cr_vae lidvae vamp_prior".split()
WITHIN = 2.0  # times: the estimate is in seconds, and depends on the size of the model


SLOW = [pytest.param(size, marks=pytest.mark.slow) for size in ("text:small", "image:small")]


@pytest.mark.parametrize("size", ["synthetic:small", *SLOW])
def test_expected_cost_is_near_the_counted_one(size, tmp_path, subtests):
    preset, data = random_data(size, tmp_path)
    planned = planner(data, preset, tmp_path)
    create = trainers(planned, data, preset)

    def flops(name):
        trainer = create(name, tmp_path / name)
        trainer.model.train()
        trainer.start_phase(len(trainer.phases) - 1)
        trainer.method.step(trainer.ctx, trainer.ctx.next_main_batch())
        return trainer.ctx.flops()

    with torch_settings("cpu", threads=1):
        unit = flops("vae")
        for name in DEARER:
            if data.info.modality in registry.method(name).modalities:
                with subtests.test(name=name):
                    expected = planned(name).variant.instance().expected_cost(preset.train, data.info)
                    assert 1 / WITHIN < flops(name) / unit / expected < WITHIN
