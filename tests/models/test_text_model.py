"""Text networks: likelihood, padding, dropout, second-order gradients, decoding."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from bench.core.config import TextModelConfig
from bench.data.dataset import END, PAD, START, UNKNOWN
from bench.models.architectures.lstm import LSTM
from bench.models.decoding import beam, greedy
from bench.models.vae import VAE, second_order
from bench.training.flops import flop_counter
from tests.fixtures.networks import build_text_model

VOCABULARY = 12
ARCHITECTURES = ["lstm", "transformer(width=8)", "dilated_cnn(receptive_field=9)"]


def sentences(lengths: list[int], seed: int = 0) -> torch.Tensor:
    """Rows of random words, of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((len(lengths), max(lengths) + 2), PAD)
    for row, n in zip(x, lengths, strict=True):
        row[0], row[n + 1] = START, END
        row[1 : n + 1] = torch.randint(4, VOCABULARY, (n,), generator=generator)
    return x


@pytest.fixture
def lstm():
    return small_model("lstm")


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return small_model(request.param)


def small_model(architecture: str) -> VAE:
    torch.manual_seed(0)
    sizes = TextModelConfig(latent_dim=3, embedding=6, hidden=7, architecture=architecture)
    model = build_text_model(sizes, VOCABULARY, longest=9)
    for parameter in model.parameters():  # larger than at initialisation, where all words are equally likely
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


# -- likelihood ----------------------------------------------------------------------------------------------


def test_paper_sizes_are_the_published_ones():
    model = build_text_model(TextModelConfig(), vocabulary=20_001, longest=202)
    counts = {name: sum(p.numel() for p in parameters) for name, parameters in model.parameter_groups().items()}
    assert counts == {"encoder": 16_605_696, "decoder": 37_185_024}


def test_initial_weights_are_uniform_as_in_the_reference():
    model = build_text_model(TextModelConfig(latent_dim=8, embedding=64, hidden=64), 500, longest=9)
    for name, parameter in model.named_parameters():
        bound = 0.1 if "embedding" in name else 0.01
        assert 0.97 * bound < parameter.abs().max() <= bound, name


def test_initialisation_by_width_is_that_of_pytorch():
    sizes = TextModelConfig(latent_dim=8, embedding=64, hidden=64, initialisation="width")
    for name, parameter in build_text_model(sizes, 500, longest=9).named_parameters():
        if "embedding" in name:
            assert 0.98 < parameter.std() < 1.02, name
        else:
            assert 0.97 / 8 < parameter.abs().max() <= 1 / 8, name


def test_log_prob_sums_the_steps_of_next(model):
    x, z = sentences([5, 5]), torch.randn(2, 3)
    code = model.latent_to_decoder(z)
    state, total = model.decoder.start(code), torch.zeros(2)
    for t in range(x.shape[1] - 1):
        hidden, state = model.decoder.states(x[:, t : t + 1], code, state)
        total += model.decoder.output(hidden[:, 0]).log_softmax(1).gather(1, x[:, t + 1 : t + 2]).squeeze(1)
    torch.testing.assert_close(model.log_prob(x, z.unsqueeze(1)).squeeze(1), total)


def test_z_enters_the_initial_state_and_every_input(lstm):
    """Against the definition: inputs [embedding; z], c_0 = W z, h_0 = tanh(c_0)."""
    x, z = sentences([4]), torch.randn(1, 3)
    decoder = lstm.decoder
    cell = z @ lstm.latent_to_decoder.linear.weight.T
    inputs = torch.cat([decoder.embedding(x[:, :-1]), z[:, None].expand(-1, x.shape[1] - 1, -1)], dim=-1)
    states, _ = nn.LSTM.forward(decoder.lstm, inputs.transpose(0, 1), (cell.tanh()[None], cell[None]))
    expected = -F.cross_entropy(states[:, 0] @ decoder.output.weight.T, x[0, 1:], reduction="sum")
    torch.testing.assert_close(lstm.log_prob(x, z[None]).squeeze(), expected)


def test_padding_changes_neither_values_nor_gradients(model):
    lengths = [2, 6, 1, 4]
    x, z, weights = sentences(lengths), torch.randn(4, 2, 3), list(model.decoder.parameters())
    q, log_px = model.encode(x), model.log_prob(x, z)
    batch_gradient = torch.autograd.grad(log_px.sum(), weights)
    gradients = []
    for i, n in enumerate(lengths):
        row = x[i : i + 1, : n + 2]
        single = model.log_prob(row, z[i : i + 1])
        torch.testing.assert_close(model.encode(row).mean[0], q.mean[i])
        torch.testing.assert_close(model.encode(row).logvar[0], q.logvar[i])
        torch.testing.assert_close(single[0], log_px[i])
        gradients.append(torch.autograd.grad(single.sum(), weights))
    for expected, *parts in zip(batch_gradient, *gradients, strict=True):
        torch.testing.assert_close(expected, sum(parts), rtol=1e-4, atol=1e-5)


def test_language_model_is_a_vae_that_ignores_z():
    """From equal initial weights, with the weights of z at zero: z enters without a bias of its own."""
    config = TextModelConfig(latent_dim=3, embedding=6, hidden=7, initialisation="width")
    models = []
    for latent in (True, False):
        torch.manual_seed(1)
        models.append(build_text_model(config, VOCABULARY, 9, latent).eval())
    vae, alone = models
    with torch.no_grad():
        vae.latent_to_decoder.linear.weight.zero_()
        vae.decoder.lstm.weight_ih_l0[:, config.embedding :] = 0
    x, z = sentences([3, 7]), torch.randn(2, 4, 3)
    torch.testing.assert_close(vae.log_prob(x, z), alone.log_prob(x, z[..., :0]))


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_decoder_without_latent_is_that_of_a_vae_that_ignores_z(architecture):
    models = []
    for latent in (True, False):
        torch.manual_seed(1)
        sizes = TextModelConfig(latent_dim=3, embedding=6, hidden=7, architecture=architecture)
        models.append(build_text_model(sizes, VOCABULARY, 9, latent).eval())
    vae, alone = models
    nn.init.zeros_(vae.latent_to_decoder.linear.weight)
    x, z = sentences([3, 7]), torch.randn(2, 4, 3)
    torch.testing.assert_close(vae.log_prob(x, z), alone.log_prob(x, z[..., :0]))


@pytest.mark.parametrize("training", [True, False])
def test_words_depend_on_earlier_words_alone(model, training):
    """To the bit, whatever follows and whatever else is in the batch."""
    model.train(training).decoder.dropout = 0.0
    x, code = sentences([7] * 3), model.latent_to_decoder(torch.randn(3, 3))

    def logits(words, code):
        return model.decoder.output(model.decoder.states(words, code, model.decoder.start(code))[0])

    expected = logits(x, code)
    for t in range(1, x.shape[1]):
        changed = logits(torch.cat([x[:, :t], (x[:, t:] + 1) % VOCABULARY], dim=1), code)
        assert torch.equal(changed[:, :t], expected[:, :t])
        assert not torch.isclose(changed[:, t], expected[:, t]).any(), "the next word depends on these"
    others = torch.cat([x[:1], x[1:].flip(1)]), torch.cat([code[:1], -code[1:]])
    assert torch.equal(logits(*others)[0], expected[0])


@pytest.mark.parametrize("words", [1, 3, 5, 7])
def test_dilated_cnn_reads_the_words_of_its_receptive_field(words):
    model, x, z = small_model(f"dilated_cnn(receptive_field={words})"), sentences([10] * 8)[:, :-1], torch.randn(8, 3)
    code = model.latent_to_decoder(z)

    def last_state(x):
        return model.decoder.states(x, code, model.decoder.start(code))[0][:, -1]

    changed = [last_state(x.index_fill(1, torch.tensor(t), UNKNOWN)) for t in range(x.shape[1])]
    assert [torch.equal(state, last_state(x)) for state in changed] == [True] * (11 - words) + [False] * words


def test_sentences_of_two_words_have_probability_one(model):
    """Summed over all first words and second words; <pad> has no likelihood of its own, so its rows are left out."""
    words = torch.arange(VOCABULARY)
    x = torch.cartesian_prod(torch.tensor([START]), words[words != PAD], words[words != PAD])
    z = torch.randn(3).expand(len(x), 1, 3)
    code = model.latent_to_decoder(z[:, 0])
    hidden, _ = model.decoder.states(x[:, :-1], code, model.decoder.start(code))
    padding = model.decoder.output(hidden).softmax(-1)[..., PAD]  # (N, 2)
    total = (model.log_prob(x, z).squeeze(1).exp() / ((1 - padding[:, 0]) * (1 - padding[:, 1]))).sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


# -- dropout -------------------------------------------------------------------------------------------------


def test_dropout_applies_in_training_mode_only(model):
    x, z = sentences([6] * 3), torch.zeros(3, 1, 3)
    assert torch.equal(model.log_prob(x, z), model.log_prob(x, z))
    model.train()
    assert not torch.equal(model.log_prob(x, z), model.log_prob(x, z))
    model.decoder.dropout = 0.0
    assert torch.equal(model.log_prob(x, z), model.log_prob(x, z))


def test_dropout_keeps_the_mean():
    decoder = build_text_model(TextModelConfig(dropout=0.3), 5, longest=9).decoder
    h = decoder.drop_units(torch.ones(100, 1000))
    assert h.unique().tolist() == pytest.approx([0, 1 / 0.7]) and h.mean().item() == pytest.approx(1, rel=0.01)


def test_samples_of_an_example_share_their_dropout_mask(model):
    """Importance weights then depend on z alone."""
    model.train()
    x, z = sentences([6] * 3), torch.randn(3, 1, 3)
    log_px = model.log_prob(x, z.expand(3, 4, 3))
    torch.testing.assert_close(log_px, log_px[:, :1].expand(3, 4))
    assert not torch.allclose(log_px[0, 0], model.log_prob(x, z)[0, 0])


# -- gradients -----------------------------------------------------------------------------------------------


def test_lstm_is_differentiable_twice():
    torch.manual_seed(0)
    lstm = LSTM(3 + 2, 4).double()
    for parameter in lstm.parameters():
        nn.init.normal_(parameter, std=0.5)
    shapes = (2, 3, 3), (1, 2, 4), (1, 2, 4), (2, 2)
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]

    def forward(x, h, c, constant):
        hidden, (last, cell) = lstm(x, (h, c), constant)
        return hidden, last, cell

    assert gradcheck(forward, inputs)
    with second_order(lstm):
        assert gradgradcheck(forward, inputs)


@pytest.mark.parametrize("with_state", [True, False])
def test_onednn_layer_equals_nn_lstm(with_state):
    torch.manual_seed(0)
    lstm = LSTM(3 + 2, 4)
    for parameter in lstm.parameters():
        nn.init.normal_(parameter, std=0.5)
    inputs = [torch.randn(shape, requires_grad=True) for shape in ((2, 3, 3), (2, 2), (1, 2, 4), (1, 2, 4))]
    assert lstm.uses_onednn(inputs[0]) and not lstm.double().uses_onednn(inputs[0])

    def values_and_gradients(dtype):
        lstm.to(dtype)
        x, constant, *state = (t.to(dtype) for t in inputs)
        hidden, (last, cell) = lstm(x, tuple(state) if with_state else None, constant)
        values = hidden, last, cell
        total = sum((value * value).sum() for value in values)
        used = [*inputs[: 4 if with_state else 2], *lstm.parameters()]
        return *values, *torch.autograd.grad(total, used)

    for value, expected in zip(*map(values_and_gradients, (torch.float, torch.double)), strict=True):
        torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["dropout", "no dropout"])
@pytest.mark.parametrize("frozen", ["", "encoder", "decoder"])
def test_loss_and_gradients_match_within_second_order(model, training, frozen):
    model.double().train(training)
    for parameter in model.parameter_groups().get(frozen, []):
        parameter.requires_grad_(False)
    x = sentences([2, 6, 1, 4])

    def loss_and_gradients():
        torch.manual_seed(2)
        q = model.encode(x)
        loss = -model.log_prob(x, q.rsample(3)).mean() + model.prior.kl(q).mean()
        return loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])

    result = loss_and_gradients()
    with second_order(model):
        expected = loss_and_gradients()
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


def test_lstm_flops_are_counted():
    lstm, x = LSTM(6, 8), torch.randn(4, 5, 6)
    products = 4 * 5 * 4 * 8 * (6 + 8)
    with flop_counter() as counter:
        out, _ = lstm(x)
        assert counter.get_total_flops() == 2 * products
        out.sum().backward()
    assert counter.get_total_flops() == 6 * products


# -- decoding ------------------------------------------------------------------------------------------------


def test_beam_of_width_one_is_greedy(model):
    code = model.latent_to_decoder(2 * torch.randn(30, 3))
    rows = greedy(model.decoder, code)
    assert torch.equal(rows, beam(model.decoder, code, width=1))
    assert len({tuple(row) for row in rows.tolist()}) > 3, "sentences depend on z"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wide_beam_finds_the_most_probable_sentence(architecture):
    """Against all sentences of at most two words."""
    torch.manual_seed(3)
    sizes = TextModelConfig(latent_dim=2, embedding=4, hidden=5, architecture=architecture)
    model = build_text_model(sizes, vocabulary=7, longest=4).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    words = [UNKNOWN, 4, 5, 6]
    rows = [[START, END, PAD, PAD], *([START, a, END, PAD] for a in words)]
    rows += [[START, a, b, c] for a in words for b in words for c in [END, *words]]
    candidates = torch.tensor(rows)
    codes = model.latent_to_decoder(torch.randn(6, 2))
    for code in codes.split(1):
        state = tuple(part.repeat_interleave(len(rows), dim=1) for part in model.decoder.start(code))
        total = torch.zeros(len(rows))
        for t in range(3):
            scores, state = model.decoder.next(candidates[:, t], code.expand(len(rows), -1), state)
            score = scores.gather(1, candidates[:, t + 1 : t + 2]).squeeze(1)
            total += score.where(candidates[:, t + 1] != PAD, torch.zeros(()))
        best = beam(model.decoder, code, width=200)[0].tolist()
        assert best == (rows[int(total.argmax())] + [PAD] * 4)[: len(best)]


def test_samples_follow_the_model(model):
    z = torch.randn(1, 3)
    code = model.latent_to_decoder(z)
    rows = model.sample(z.expand(4000, -1), torch.Generator().manual_seed(0))
    expected = model.decoder.next(torch.tensor([START]), code, model.decoder.start(code))[0].exp()[0]
    frequency = torch.bincount(rows[:, 1], minlength=VOCABULARY) / len(rows)
    assert (frequency - expected).abs().max() < 4 * math.sqrt(0.25 / len(rows))
    assert rows.shape[1] <= 9 and frequency[PAD] == frequency[START] == 0
    for row in rows[:50].tolist():
        end = row.index(END) if END in row else len(row)
        assert PAD not in row[:end] and set(row[end + 1 :]) <= {PAD}


@pytest.mark.slow
def test_overfitted_model_reproduces_its_sentences():
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
        assert torch.equal(F.pad(rows, (0, x.shape[1] - rows.shape[1])), x)
