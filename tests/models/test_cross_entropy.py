"""Chunked token likelihoods against torch's cross entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradgradcheck

from bench.models.kernels import cross_entropy
from bench.models.kernels.cross_entropy import chunked_token_nll, token_nll
from bench.training.flops import flop_counter


@pytest.fixture(params=[1, 30, 2**23], ids=["one row", "three rows", "all rows"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", request.param)


def inputs(dtype=torch.double):
    torch.manual_seed(0)
    states, weight = torch.randn(7, 4, dtype=dtype), torch.randn(10, 4, dtype=dtype)
    return states.requires_grad_(), weight.requires_grad_(), torch.randint(10, (7,))


@pytest.mark.parametrize("frozen", [(), (0,), (1,)], ids=["none", "states", "weight"])
def test_values_and_gradients_match_torch(chunk, frozen):
    *factors, words = inputs()
    for i in frozen:
        factors[i].requires_grad_(False)
    expected = F.cross_entropy(F.linear(*factors), words, reduction="none")
    nats = chunked_token_nll(*factors, words)
    torch.testing.assert_close(nats, expected)
    with torch.no_grad():
        torch.testing.assert_close(chunked_token_nll(*factors, words), expected)
    cotangent, trainable = torch.randn(7, dtype=torch.double), [f for f in factors if f.requires_grad]
    gradients = [torch.autograd.grad((value * cotangent).sum(), trainable) for value in (nats, expected)]
    torch.testing.assert_close(*gradients)


def test_second_gradients_match_torch():
    *factors, words = inputs()
    results = []
    for nats in (token_nll(*factors, words), F.cross_entropy(F.linear(*factors), words, reduction="none")):
        gradients = torch.autograd.grad(nats.square().sum(), factors, create_graph=True)
        results.append([nats, *gradients, *torch.autograd.grad(sum(g.sin().sum() for g in gradients), factors)])
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert gradgradcheck(lambda states, weight: token_nll(states, weight, words), factors)


def test_frozen_weight_saves_a_matrix_product():
    states, weight, words = inputs()
    product = 2 * 7 * 4 * 10
    for trainable, products in ((True, 3), (False, 2)):
        weight.requires_grad_(trainable)
        with flop_counter() as counter:
            chunked_token_nll(states, weight, words).sum().backward()
        assert counter.get_total_flops() == products * product


def test_improbable_word_has_a_finite_nll():
    states = torch.tensor([[400.0]], requires_grad=True)
    nats = chunked_token_nll(states, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    nats.sum().backward()
    assert nats.item() == 800 and states.grad.item() == 2


def test_bfloat16_products_and_float32_likelihoods(chunk):
    *factors, words = inputs(torch.float)
    rounded = [f.detach().bfloat16().float().requires_grad_() for f in factors]
    expected = F.cross_entropy(F.linear(*rounded), words, reduction="none")
    with torch.autocast("cpu", torch.bfloat16):
        nats = chunked_token_nll(*factors, words)
    assert nats.dtype == torch.float
    torch.testing.assert_close(nats, expected, rtol=0, atol=0.03)
    for result, reference in zip(
        torch.autograd.grad(nats.sum(), factors), torch.autograd.grad(expected.sum(), rounded), strict=True
    ):
        assert result.dtype == torch.float and (result - reference).norm() < 0.02 * reference.norm()
