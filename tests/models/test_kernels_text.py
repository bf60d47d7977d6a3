"""What is written out for speed in the text models, against torch's own: values, gradients, what is frozen, types."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from bench.core.config import TextModelConfig
from bench.models.kernels import cross_entropy as words
from bench.models.kernels import lstm as written_out
from bench.models.kernels.cross_entropy import chunked_token_nll
from bench.models.kernels.lstm import LSTM
from bench.models.text import build_text_model
from bench.models.vae import second_order
from bench.training.flops import flop_counter
from tests.models.test_text_model import VOCABULARY, sentences


@pytest.fixture(autouse=True)
def whatever_the_size(monkeypatch):
    monkeypatch.setattr(written_out, "LARGE", 1)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = LSTM(7, 6).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def given(n=4, t=5, dtype=torch.double):
    """x, h, c and a constant for ``layer``."""
    torch.manual_seed(1)
    shapes = (n, t, 4), (1, n, 6), (1, n, 6), (n, 3)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def through(layer, x, h, c, constant):
    """A number that depends on all that a layer gives."""
    hidden, (last, cell) = layer(x, (h, c), constant)
    return (hidden * torch.arange(hidden.numel()).view(hidden.shape).sin()).sum() + last.sum() + cell.square().sum()


@pytest.mark.parametrize("block", [1, 2 * 24, 2**15], ids=["step by step", "two steps", "at once"])
def test_an_lstm_has_the_gradients_of_torchs(layer, block, monkeypatch):
    monkeypatch.setattr(written_out, "BLOCK", block)
    inputs = given()
    found = through(layer, *inputs)
    with second_order(layer):
        expected = through(layer, *inputs)
    torch.testing.assert_close(found, expected)
    wanted = [*inputs, *layer.parameters()]
    for one, other in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(one, other)


def test_an_lstm_without_state_starts_from_zeros(layer):
    x = torch.randn(2, 3, 7, dtype=torch.double)
    expected, (h, c) = nn.LSTM.forward(layer, x)
    hidden, (last, cell) = layer(x)
    for one, other in zip((hidden, last, cell), (expected, h, c), strict=True):
        torch.testing.assert_close(one, other)


def test_no_gradient_for_what_is_frozen(layer):
    x, h, c, constant = given()
    (expected,) = torch.autograd.grad(through(layer, x, h, c, constant), constant)
    for tensor in (x, h, c, *layer.parameters()):
        tensor.requires_grad_(False)
    with flop_counter() as counter:
        loss = through(layer, x, h, c, constant)
        forward = counter.get_total_flops()
        loss.backward()
    torch.testing.assert_close(constant.grad, expected)
    assert all(p.grad is None for p in (x, h, c, *layer.parameters()))
    n, t, gates = 4, 5, 24
    assert forward == 2 * gates * n * (t * (4 + 6) + 3)
    assert counter.get_total_flops() - forward == 2 * gates * n * ((t - 1) * 6 + 3)


def test_an_lstm_is_differentiated_twice_within_second_order_alone(layer):
    inputs = given(n=2, t=3)
    assert gradcheck(lambda *some: through(layer, *some), inputs)
    with second_order(layer):
        assert gradgradcheck(lambda *some: through(layer, *some), inputs)
    (first,) = torch.autograd.grad(through(layer, *inputs), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_an_lstm_in_bfloat16(layer):
    layer, inputs = layer.float(), given(dtype=torch.float)
    wanted = [*inputs, *layer.parameters()]
    expected = torch.autograd.grad(through(layer, *inputs), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        loss = through(layer, *inputs)
    for one, other in zip(torch.autograd.grad(loss, wanted), expected, strict=True):
        assert one.dtype == torch.float and (one - other).norm() < 0.03 * other.norm()


# -- words ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 30, 2**23], ids=["one row", "some rows", "all rows"])
def at_a_time(request, monkeypatch):
    monkeypatch.setattr(words, "SCORES", request.param)


def scored(dtype=torch.double):
    torch.manual_seed(0)
    states, weight = torch.randn(7, 4, dtype=dtype), torch.randn(10, 4, dtype=dtype)
    return states.requires_grad_(), weight.requires_grad_(), torch.randint(10, (7,))


@pytest.mark.parametrize("frozen", [(), (0,), (1,)], ids=["none", "states", "weight"])
def test_surprise_is_the_cross_entropy_of_scores(at_a_time, frozen):
    *factors, target = scored()
    for i in frozen:
        factors[i].requires_grad_(False)
    expected = F.cross_entropy(F.linear(*factors), target, reduction="none")
    torch.testing.assert_close(chunked_token_nll(*factors, target), expected)
    with torch.no_grad():
        torch.testing.assert_close(chunked_token_nll(*factors, target), expected)
    above, wanted = torch.randn(7, dtype=torch.double), [f for f in factors if f.requires_grad]
    grads = [
        torch.autograd.grad((nats * above).sum(), wanted) for nats in (chunked_token_nll(*factors, target), expected)
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_a_frozen_weight_saves_a_product():
    states, weight, target = scored()
    product = 2 * 7 * 4 * 10
    for learned, products in ((True, 3), (False, 2)):
        weight.requires_grad_(learned)
        with flop_counter() as counter:
            chunked_token_nll(states, weight, target).sum().backward()
        assert counter.get_total_flops() == products * product


def test_a_hopeless_word_is_a_finite_surprise():
    states = torch.tensor([[400.0]], requires_grad=True)
    nats = chunked_token_nll(states, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    nats.sum().backward()
    assert nats.item() == 800 and states.grad.item() == 2


def test_surprise_in_bfloat16(at_a_time):
    *factors, target = scored(torch.float)
    rounded = [f.detach().bfloat16().float().requires_grad_() for f in factors]
    expected = F.cross_entropy(F.linear(*rounded), target, reduction="none")
    with torch.autocast("cpu", torch.bfloat16):
        nats = chunked_token_nll(*factors, target)
    assert nats.dtype == torch.float
    torch.testing.assert_close(nats, expected, rtol=0, atol=0.03)
    grads = torch.autograd.grad(nats.sum(), factors), torch.autograd.grad(expected.sum(), rounded)
    for one, other in zip(*grads, strict=True):
        assert one.dtype == torch.float and (one - other).norm() < 0.02 * other.norm()


# -- the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["dropout", "no dropout"])
@pytest.mark.parametrize("frozen", ["", "encoder", "decoder"])
@pytest.mark.parametrize("samples", [1, 3])
def test_losses_and_gradients_of_the_plain_formulation(training, frozen, samples):
    torch.manual_seed(0)
    model = build_text_model(TextModelConfig(latent_dim=3, embedding=6, hidden=7), VOCABULARY, longest=9)
    model.double().train(training)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    for parameter in model.parameter_groups().get(frozen, []):
        parameter.requires_grad_(False)
    x = sentences([2, 6, 1, 4])

    def found():
        torch.manual_seed(2)
        q = model.encode(x)
        loss = -model.log_prob(x, q.rsample(samples)).mean() + model.prior.kl(q).mean()
        return loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])

    fast = found()
    with second_order(model):
        plain = found()
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_dropout_keeps_the_mean():
    decoder = build_text_model(TextModelConfig(dropout=0.3), 5, longest=9).decoder
    dropped = decoder.dropped(torch.ones(100, 1000))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7]) and dropped.mean().item() == pytest.approx(
        1, rel=0.01
    )


def test_the_samples_of_an_example_lose_the_same_units():
    """Samples with one code are then equally likely, and importance weights tell of codes alone."""
    torch.manual_seed(0)
    model = build_text_model(TextModelConfig(embedding=8, hidden=8, latent_dim=2, dropout=0.5), 20, 6).train()
    for weight in model.parameters():
        nn.init.normal_(weight)
    x = torch.randint(4, 20, (3, 6))
    z = torch.randn(3, 1, 2)
    same = model.log_prob(x, z.expand(3, 4, 2))
    torch.testing.assert_close(same, same[:, :1].expand(3, 4))
    assert not torch.allclose(same[0, 0], model.log_prob(x, z)[0, 0])
