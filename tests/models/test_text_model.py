"""Text: sentences as tensors, the LSTM model, decoding, and cells from start to end."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from bench.core.config import TextModelConfig
from bench.data.dataset import END, PAD, START, UNKNOWN, Prepared
from bench.data.tensors import apply_model_config, batches_per_pass, load
from bench.evaluation.metrics import EvaluationContext, compute_metrics
from bench.evaluation.samples import text_samples
from bench.experiment.factory import build_from_config
from bench.experiment.presets import load_preset
from bench.experiment.worker import run_cell
from bench.models.build import build_model
from bench.models.decoding import beam, greedy
from bench.models.distributions import Gaussian
from bench.models.kernels.lstm import LSTM
from bench.models.text import build_text_model
from bench.training.flops import flop_counter
from bench.training.trainer import Trainer
from tests.conftest import TEXT_MODEL, TEXT_TRAIN, assert_equal_weights

VOCABULARY = 12
EQUAL = replace(TEXT_TRAIN, batch_size=8, equal_lengths=True)


def sentences(lengths, seed=0):
    """Rows of random words, so many each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((len(lengths), max(lengths) + 2), PAD)
    for row, n in zip(x, lengths, strict=True):
        row[0], row[n + 1] = START, END
        row[1 : n + 1] = torch.randint(4, VOCABULARY, (n,), generator=generator)
    return x


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_text_model(TextModelConfig(latent_dim=3, embedding=6, hidden=7), VOCABULARY, longest=9)
    for parameter in model.parameters():  # as it starts, every word is as likely as any other
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


# -- the model -----------------------------------------------------------------------------------------------


def test_parameters_of_the_paper():
    model = build_text_model(TextModelConfig(), vocabulary=20_001, longest=202)
    counts = {name: sum(p.numel() for p in parameters) for name, parameters in model.parameter_groups().items()}
    assert counts == {"encoder": 16_605_696, "decoder": 37_185_024}


def test_initial_weights_are_uniform_as_in_the_reference():
    model = build_text_model(TextModelConfig(latent_dim=8, embedding=64, hidden=64), 500, longest=9)
    for name, parameter in model.named_parameters():
        bound = 0.1 if "embedding" in name else 0.01
        assert 0.97 * bound < parameter.abs().max() <= bound, name


def test_log_prob_is_the_sum_over_words_and_the_end(model):
    """Word by word through ``next``, with its own state, against one pass."""
    x, z = sentences([5, 5]), torch.randn(2, 3)
    code = model.latent_to_decoder(z)
    state, total = model.decoder.start(code), torch.zeros(2)
    for t in range(x.shape[1] - 1):
        hidden, state = model.decoder.states(x[:, t : t + 1], code, state)
        total += model.decoder.output(hidden[:, 0]).log_softmax(1).gather(1, x[:, t + 1 : t + 2]).squeeze(1)
    torch.testing.assert_close(model.log_prob(x, z.unsqueeze(1)).squeeze(1), total)


def test_z_is_in_the_initial_state_and_in_every_input(model):
    """Against the definition: [embedding; z] into every step, c0 = W z, h0 = tanh(c0)."""
    x, z = sentences([4]), torch.randn(1, 3)
    decoder = model.decoder
    cell = z @ model.latent_to_decoder.linear.weight.T
    inputs = torch.cat([decoder.embedding(x[:, :-1]), z[:, None].expand(-1, x.shape[1] - 1, -1)], dim=-1)
    states, _ = torch.nn.LSTM.forward(decoder.lstm, inputs, (cell.tanh()[None], cell[None]))
    expected = -torch.nn.functional.cross_entropy(states[0] @ decoder.output.weight.T, x[0, 1:], reduction="sum")
    torch.testing.assert_close(model.log_prob(x, z[None]).squeeze(), expected)


def test_padding_changes_nothing(model):
    """A padded, masked batch gives every sentence the loss that it has alone: posterior and likelihood."""
    lengths = [2, 6, 1, 4]
    x, z = sentences(lengths), torch.randn(4, 2, 3)
    q, scores = model.encode(x), model.log_prob(x, z)
    for i, n in enumerate(lengths):
        alone = x[i : i + 1, : n + 2]
        torch.testing.assert_close(model.encode(alone).mean[0], q.mean[i])
        torch.testing.assert_close(model.encode(alone).logvar[0], q.logvar[i])
        torch.testing.assert_close(model.log_prob(alone, z[i : i + 1])[0], scores[i])


def test_padding_changes_no_gradient(model):
    lengths = [2, 5, 3]
    x, z = sentences(lengths), torch.randn(3, 1, 3)
    whole = torch.autograd.grad(model.log_prob(x, z).sum(), list(model.decoder.parameters()))
    parts = [
        torch.autograd.grad(model.log_prob(x[i : i + 1, : n + 2], z[i : i + 1]).sum(), list(model.decoder.parameters()))
        for i, n in enumerate(lengths)
    ]
    for of_all, *of_each in zip(whole, *parts, strict=True):
        torch.testing.assert_close(of_all, sum(of_each), rtol=1e-4, atol=1e-5)


def test_scoring_some_words_at_a_time_changes_nothing(model, monkeypatch):
    x, z = sentences([3, 6]), torch.randn(2, 5, 3)
    with torch.no_grad():
        whole = model.log_prob(x, z)
        monkeypatch.setattr("bench.models.kernels.cross_entropy.MAX_LOGITS", 2 * VOCABULARY)
        torch.testing.assert_close(model.log_prob(x, z), whole)


def test_dropout_is_on_embeddings_and_output_states_in_training_alone(model):
    x, z = sentences([6] * 3), torch.zeros(3, 1, 3)
    assert torch.equal(model.log_prob(x, z), model.log_prob(x, z))
    model.train()
    assert not torch.equal(model.log_prob(x, z), model.log_prob(x, z))
    model.decoder.dropout = 0.0
    assert torch.equal(model.log_prob(x, z), model.log_prob(x, z))


def test_the_language_model_is_the_decoder_without_z():
    config = TextModelConfig(latent_dim=3, embedding=6, hidden=7)
    torch.manual_seed(1)
    whole = build_text_model(config, VOCABULARY, 9).decoder
    torch.manual_seed(1)
    alone = build_text_model(config, VOCABULARY, 9, latent=False).decoder
    for name, value in alone.state_dict().items():
        other = whole.state_dict()[name]
        assert torch.equal(value, other[:, : value.shape[1]] if value.dim() > 1 else other), name


def drawn_lstm(inputs, hidden):
    """An LSTM leaves its weights to who holds it."""
    torch.manual_seed(0)
    lstm = LSTM(inputs, hidden)
    for parameter in lstm.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return lstm


def test_an_lstm_can_be_differentiated_twice():
    lstm = drawn_lstm(3, 4).double()
    x = torch.randn(2, 3, 3, dtype=torch.double, requires_grad=True)
    assert gradcheck(lambda x: lstm(x)[0], x) and gradgradcheck(lambda x: lstm(x)[0], x)


def test_the_fused_lstm_has_the_second_gradient_of_the_plain_one():
    lstm, x = drawn_lstm(3, 4), torch.randn(2, 5, 3, requires_grad=True)

    def second():
        (first,) = torch.autograd.grad(lstm(x)[0].square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, *lstm.parameters()])

    fused = second()
    with torch.backends.mkldnn.flags(enabled=False):
        for one, other in zip(fused, second(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_operations_of_an_lstm_are_counted():
    lstm, x = drawn_lstm(6, 8), torch.randn(4, 5, 6)
    products = 4 * 5 * 4 * 8 * (6 + 8)
    with flop_counter() as counter:
        out, _ = lstm(x)
    assert counter.get_total_flops() == 2 * products
    with flop_counter() as counter:
        out, _ = lstm(x)
        out.sum().backward()
    assert counter.get_total_flops() == 6 * products


# -- decoding ------------------------------------------------------------------------------------------------


def test_a_beam_of_one_is_greedy(model):
    code = model.latent_to_decoder(2 * torch.randn(30, 3))
    one, other = greedy(model.decoder, code), beam(model.decoder, code, width=1)
    assert torch.equal(one, other)
    assert len({tuple(row) for row in one.tolist()}) > 3, "different z say different things"


def test_a_wide_beam_finds_the_most_probable_sentence():
    """Against all sentences of at most two words that there are."""
    torch.manual_seed(3)
    model = build_text_model(TextModelConfig(latent_dim=2, embedding=4, hidden=5), vocabulary=7, longest=4).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    words = [UNKNOWN, 4, 5, 6]
    every = [[START, END, PAD, PAD], *([START, a, END, PAD] for a in words)]
    every += [[START, a, b, c] for a in words for b in words for c in [END, *words]]
    code = model.latent_to_decoder(torch.randn(6, 2))
    state = model.decoder.start(code)
    for i in range(6):
        of_this = tuple(part[:, i : i + 1].expand(-1, len(every), -1).contiguous() for part in state)
        total, rows = torch.zeros(len(every)), torch.tensor(every)
        for t in range(3):
            scores, of_this = model.decoder.next(rows[:, t], code[i : i + 1].expand(len(every), -1), of_this)
            total += scores.gather(1, rows[:, t + 1 : t + 2]).squeeze(1).where(rows[:, t + 1] != PAD, torch.zeros(()))
        found = beam(model.decoder, code[i : i + 1], width=200)[0]
        assert found.tolist() == (every[int(total.argmax())] + [PAD] * 4)[: len(found)]


def test_samples_follow_the_model(model):
    """First words at one z, and sentences that end with a mark and are padded."""
    z = torch.randn(1, 3)
    code = model.latent_to_decoder(z)
    rows = model.sample(z.expand(4000, -1), torch.Generator().manual_seed(0))
    expected = model.decoder.next(torch.tensor([START]), code, model.decoder.start(code))[0].exp()[0]
    drawn = torch.bincount(rows[:, 1], minlength=VOCABULARY) / len(rows)
    assert (drawn - expected).abs().max() < 4 * math.sqrt(0.25 / len(rows))
    assert rows.shape[1] <= 9 and drawn[PAD] == drawn[START] == 0
    for row in rows[:50].tolist():
        end = row.index(END) if END in row else len(row)
        assert PAD not in row[:end] and set(row[end + 1 :]) <= {PAD}


def test_an_overfitted_model_reproduces_its_sentences():
    """Twenty sentences from their posterior means, greedily and by beam search."""
    torch.manual_seed(0)
    x = sentences([3, 4, 5, 6, 7] * 4, seed=5)
    model = build_text_model(TextModelConfig(latent_dim=8, embedding=24, hidden=48, dropout=0.0), VOCABULARY, longest=9)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(400):
        loss = -model.log_prob(x, model.encode(x).mean.unsqueeze(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    code = model.eval().latent_to_decoder(model.encode(x).mean)
    for rows in (greedy(model.decoder, code), beam(model.decoder, code)):
        assert torch.equal(torch.nn.functional.pad(rows, (0, x.shape[1] - rows.shape[1])), x)


# -- data ----------------------------------------------------------------------------------------------------


def test_equal_lengths_fill_batches_with_one_length_each(text_prepared):
    data = load(text_prepared, TEXT_MODEL)
    order = data.order(8, True, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(order).sort().values, torch.arange(len(data.train))), "every sentence once"
    assert all(len(data.lengths["train"][index].unique()) == 1 for index in order)
    assert len(order) == batches_per_pass(text_prepared, TEXT_MODEL, EQUAL)
    assert all((data.batch(index, torch.Generator()) != PAD).all() for index in order)


def test_cut_documents_need_fewer_batches_of_equal_length(text_prepared):
    sizes = replace(TEXT_MODEL, words=3)
    order = load(text_prepared, sizes).order(8, True, torch.Generator())
    assert (
        len(order) == batches_per_pass(text_prepared, sizes, EQUAL) < batches_per_pass(text_prepared, TEXT_MODEL, EQUAL)
    )


def test_too_few_sentences_are_refused(text_trainer, tmp_path):
    with pytest.raises(ValueError, match="do not fill one batch"):
        text_trainer("vae", tmp_path, replace(TEXT_TRAIN, batch_size=131))


def test_padded_batches_are_whole_and_of_similar_length(text_prepared):
    data = load(text_prepared, TEXT_MODEL)
    one, other = (data.order(8, False, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert {len(index) for index in one} == {8} and len(one) == batches_per_pass(
        text_prepared, TEXT_MODEL, replace(EQUAL, equal_lengths=False)
    )
    assert len(torch.cat(one).unique()) == 8 * len(one) and not torch.equal(one[0], other[0])
    padding = torch.cat([(data.batch(index, torch.Generator()) == PAD).flatten() for index in one]).float().mean()
    assert padding < 0.1
    assert [len(x) for x in one] == [8] * len(one)


def test_blocks_hold_the_first_sentences_by_length(text_prepared):
    data = load(text_prepared, TEXT_MODEL)
    index, blocks = data.blocks("test", 10, 4, equal_lengths=True)
    assert sorted(index) == list(range(10)) and all((block != PAD).all() and len(block) <= 4 for block in blocks)
    index, blocks = data.blocks("test", 10, 4)
    assert sorted(index) == list(range(10)) and [len(block) for block in blocks] == [4, 4, 2]
    for i, row in zip(index, [row for block in blocks for row in block], strict=True):
        n = data.lengths["test"][i]
        assert torch.equal(row[:n], data.test[i, :n].long()) and (row[n:] == PAD).all()


def test_rare_words_become_unknown_and_documents_are_cut(text_prepared):
    whole, less = load(text_prepared, TEXT_MODEL), load(text_prepared, replace(TEXT_MODEL, vocabulary=8, words=3))
    assert less.info.vocabulary == len(less.vocabulary) == 8 and less.train.shape[1] == less.info.shape[0] == 5
    for row, short in zip(whole.train[:50].tolist(), less.train[:50].tolist(), strict=True):
        words = [word if word < 8 else UNKNOWN for word in row[1 : row.index(END)]][:3]
        assert short == [START, *words, END, *[PAD] * (3 - len(words))]
    sizes = replace(TEXT_MODEL, vocabulary=8, words=3)
    model = build_model(sizes, apply_model_config(text_prepared.info, sizes))
    assert model.decoder.longest == 5 and model.decoder.output.out_features == 8


def test_the_unigram_reference_is_the_entropy_of_frequencies(text_prepared):
    data = load(text_prepared, TEXT_MODEL)
    words = [w for row in data.train.tolist() for w in row[1 : row.index(END) + 1]]
    counts = np.bincount(words, minlength=len(data.vocabulary)) + 0.5
    counts[:END] = 0
    log = np.log(counts / counts.sum(), where=counts > 0, out=np.zeros(len(counts)))
    test = [[w for w in row[1 : row.index(END) + 1]] for row in data.test[:15].tolist()]
    expected = -np.mean([log[words].sum() for words in test])
    assert data.references(15) == {"unigram": pytest.approx(expected)}
    mean = np.mean([len(words) for words in test])
    expected = {"ppl": pytest.approx(math.exp(10 / mean)), "words": pytest.approx(mean), "unknown": 0.0}
    assert data.unit_metrics(10.0, 15) == expected
    half = load(text_prepared, replace(TEXT_MODEL, vocabulary=12))
    rare = np.mean([word >= 12 for words in test for word in words])
    assert half.unit_metrics(10.0, 15)["unknown"] == pytest.approx(rare)


# -- cells ---------------------------------------------------------------------------------------------------

METHODS = ["autoregressive", "vae", "vae+anneal", "beta_vae(beta=0.2)", "sa_vae(steps=2)", "aggressive(max_inner=4)"]


@pytest.mark.parametrize("expression", METHODS)
def test_a_text_cell_from_start_to_end(expression, text_planned, text_task):
    cell = text_planned(expression)
    run_cell(text_task(cell))
    result, evaluation = cell.folder.result(), cell.folder.evaluation()
    assert result.status == "ok", result.traceback
    assert evaluation, result.evaluation_failure
    metrics = evaluation.metrics
    assert metrics["ppl"] == pytest.approx(math.exp(metrics["nll"] / metrics["words"])) and "bpd" not in metrics
    assert math.isfinite(metrics["nll"]) and evaluation.references["unigram"] > 0
    said = (cell.folder.path / "texts.json").read_text("utf-8")
    assert ("reconstructions" in said) == cell.variant.method.latent and "samples" in said


@pytest.mark.parametrize("expression", METHODS)
def test_a_killed_text_cell_ends_as_if_it_had_not_been(expression, text_trainer, tmp_path, monkeypatch):
    """Dropout included, in refinement too."""
    whole = text_trainer(expression, tmp_path / "whole")
    whole.run()
    step = Trainer.check_losses

    def die(self):
        step(self)
        if self.ctx.step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
        patch.setattr(Trainer, "check_losses", die)
        text_trainer(expression, tmp_path / "killed").run()
    again = text_trainer(expression, tmp_path / "killed")
    assert again.run().resumes == 1
    assert_equal_weights(again.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("neutral", ["sa_vae(steps=0)", "aggressive(max_inner=0)", "beta_vae(beta=1.0)"])
def test_neutral_methods_are_the_basic_vae_on_text(neutral, text_trainer, tmp_path):
    one, other = text_trainer("vae", tmp_path / "one"), text_trainer(neutral, tmp_path / "other")
    one.run(), other.run()
    assert_equal_weights(one.model.state_dict(), other.model.state_dict())


def test_equal_lengths_train_by_passes_of_their_own(text_trainer, tmp_path):
    config = replace(TEXT_TRAIN, equal_lengths=True, epochs=1, epoch_updates=None)
    run = text_trainer("vae", tmp_path, config)
    assert run.ctx.total == run.ctx.main_batches.per_pass > len(run.data.train) // config.batch_size
    assert run.run().updates == run.ctx.total


def test_refinement_sees_the_same_dropout_going_back(text_trainer, tmp_path):
    """The gradient through a refinement that is made again in the reverse pass is that of the one that was made."""
    run = text_trainer("sa_vae(steps=2)", tmp_path)
    method, ctx, model = run.method, run.ctx, run.model.double().train()
    for parameter in model.parameters():  # as it starts, its gradients are lost in rounding
        torch.nn.init.normal_(parameter, std=0.5)
    x = ctx.next_main_batch()
    ctx.reseed_streams("step", 0)
    head = model.head.linear.weight

    def loss():
        ctx.generators = {}
        q = method.posterior(ctx, x, train=True)
        with ctx.fixed_rng("the loss itself"):
            return (model.prior.kl(q) - model.log_prob(x, q.mean.unsqueeze(1)).squeeze(1)).mean()

    (gradient,) = torch.autograd.grad(loss(), head)
    direction = torch.randn_like(head)
    eps = 1e-6
    with torch.no_grad():
        head += eps * direction
        up = loss().item()
        head -= 2 * eps * direction
        down = loss().item()
    assert (up - down) / (2 * eps) == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_the_windows_of_aggressive_training_go_by_words(text_trainer, tmp_path):
    """A window of long sentences is not worse than one of short ones."""
    run = text_trainer("aggressive(max_inner=12,window=2)", tmp_path)
    short, long = sentences([2] * 5), sentences([6] * 10)
    batches, taken = iter([short, short, long, long, short, short, *[long] * 8]), []

    class Told:
        encoder_updates_left = staticmethod(lambda: math.inf)
        units = run.ctx.units

        def next_batch(self):
            return next(batches)

        def update(self, objective, groups):
            taken.append(groups)
            return self.losses.pop(0)

    told = Told()
    # Per word 1.0, then 0.9, then 0.8, then 0.85: the fourth window is the first that is worse.
    per_word = [1.0] * 2 + [0.9] * 2 + [0.8] * 2 + [0.85] * 6
    words = [3, 3, 7, 7, 3, 3] + [7] * 6
    told.losses = [torch.tensor(a * b) for a, b in zip(per_word, words, strict=True)]
    run.method.fit_encoder(told, next(batches))
    assert taken == [["encoder"]] * 8


def test_examples_are_stored_in_the_order_of_the_set(text_planned, text_task):
    cell = text_planned("vae")
    run_cell(text_task(cell))
    assert pd.read_parquet(cell.folder.path / "examples.parquet")["index"].tolist() == list(range(20))
    with np.load(cell.folder.path / "arrays.npz") as arrays:
        assert arrays["true_means"].shape == arrays["means"].shape == (20, 2)
    method, model, _ = build_from_config(cell.config)
    model.load_state_dict(torch.load(cell.folder.path / "best.pt", weights_only=True)["model"])
    data = load(Prepared.read(Path(text_task(cell)["data"])), TEXT_MODEL)
    x = data.test[:20].long()
    with np.load(cell.folder.path / "arrays.npz") as arrays, torch.no_grad():
        torch.testing.assert_close(model.eval().encode(x).mean, torch.from_numpy(arrays["means"]))


def test_measures_are_those_of_unpadded_sentences(text_trainer, tmp_path):
    run = text_trainer("vae", tmp_path)
    _, blocks = run.data.blocks("test", 12, 4)
    alone = [x[i : i + 1, : int((x[i] != PAD).sum())] for x in blocks for i in range(len(x))]
    ctx = EvaluationContext(run.model, run.data.info, TEXT_TRAIN, 0)
    run.model.eval()
    with torch.no_grad():
        expected = torch.cat([run.model.encode(x).mean for x in alone])
    torch.testing.assert_close(compute_metrics(run.method, ctx, blocks, 2, 8).means, expected)


def test_interpolations_end_at_the_reconstructions(text_trainer, tmp_path):
    run = text_trainer("vae", tmp_path)
    _, (x,) = run.data.blocks("test", 4, 4)
    run.model.eval()
    samples = text_samples(run.method, EvaluationContext(run.model, run.data.info, TEXT_TRAIN, 0), run.data, x)
    assert len(samples.samples) == len(samples.reconstructions) == 4 and len(samples.interpolations) == 2
    for pair, line in enumerate(samples.interpolations):
        first, second = samples.reconstructions[2 * pair : 2 * pair + 2]
        assert line.start == first.original and line.end == second.original
        assert line.steps[0].greedy == first.greedy and line.steps[-1].beam == second.beam


# -- presets -------------------------------------------------------------------------------------------------


def test_the_paper_preset_holds_the_published_protocol():
    preset = load_preset("paper", "text")
    assert preset.model == TextModelConfig()
    train = preset.train
    assert (train.optimiser, train.lr, train.batch_size, train.clip, train.equal_lengths) == ("sgd", 1.0, 32, 5.0, True)
    assert (train.patience, train.decay, train.decay_from, train.max_decays, train.epochs) == (2, 0.5, 15, 5, 100)
    assert train.ramp * train.epochs == 10 and train.mi_rule == "mi_batch" and preset.evaluation.iw_samples == 500
    synthetic = load_preset("paper", "text", protocol="synthetic")
    assert synthetic.model == TextModelConfig(embedding=50, hidden=50) and synthetic.train.batch_size == 16
    assert synthetic.train.lr == 1.0 and synthetic.train.equal_lengths


def test_the_posterior_of_no_latent_has_no_dimensions(text_planned):
    method, model, _ = build_from_config(text_planned("autoregressive").config)
    q = model.encode(sentences([2, 3]))
    assert isinstance(q, Gaussian) and q.mean.shape == (2, 0)
