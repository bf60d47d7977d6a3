"""Batch-normalised posteriors: the averages that validation uses."""

import torch

from tests.conftest import assert_equal_weights


def test_averages_are_recomputed_before_validation(trainer, tmp_path):
    run = trainer("bn_vae(gamma=0.6)", tmp_path)
    run.run()
    head = run.model.head
    others = {name: value.clone() for name, value in run.model.state_dict().items() if "head.mean" not in name}
    head.mean.running_mean.fill_(7.0)  # outdated averages
    run.method.on_validation_start(run.ctx)
    assert run.model.training
    assert_equal_weights(others, {name: run.model.state_dict()[name] for name in others})
    q = run.model.eval().encode(torch.cat([run.ctx.next_batch() for _ in range(64)]))
    assert (q.mean.mean(0) - head.shift).abs().max() < 0.1
    assert q.mean.std(0).sub(0.6).abs().max() < 0.1
