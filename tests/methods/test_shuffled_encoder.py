"""The negative control: its posterior must not depend on the example, and a leak must be visible."""

import pytest
import torch

from bench.data.dataset import PAD
from bench.methods.shuffled_encoder import KEPT, KeptExamples, ShuffledEncoder


@torch.no_grad()
def means_of(run, x: torch.Tensor) -> torch.Tensor:
    return run.method.posterior(run.ctx, x, train=False).mean


@pytest.mark.parametrize("kind", ["trainer", "text_trainer"])
def test_posterior_is_that_of_other_examples(kind, request, tmp_path, monkeypatch):
    run = request.getfixturevalue(kind)("shuffled_encoder", tmp_path)
    run.start_phase(0)
    run.model.eval()
    first, (x, y) = run.model.aux["kept"].x.clone(), (run.ctx.next_batch() for _ in range(2))
    assert not torch.equal(x, y) and torch.equal(means_of(run, x), means_of(run, y))
    assert torch.equal(means_of(run, x), run.model.encode(first[: len(x)]).mean)
    run.train_step()
    assert not torch.equal(run.model.aux["kept"].x, first) and torch.equal(means_of(run, x), means_of(run, y))
    monkeypatch.setattr(ShuffledEncoder, "posterior", lambda self, ctx, x, train: ctx.model.encode(x))
    assert not torch.equal(means_of(run, x), means_of(run, y)), "a leak is visible"


def test_kept_sentences_do_not_depend_on_the_length_of_a_batch(text_prepared):
    kept = KeptExamples(text_prepared.info)
    kept.replace(torch.full((40, 11), 5))
    kept.replace(torch.tensor([[2, 7, 3], [2, 8, 3]]))
    assert kept.x.shape == (KEPT, 11) and (kept.x[:, 3:] == PAD).all()
    assert kept(KEPT + 3)[:, 1].tolist() == [7, 8] * (KEPT // 2) + [7, 8, 7]
