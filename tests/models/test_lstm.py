"""The LSTM's recurrence: values and both gradients, against PyTorch's LSTM and finite differences."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from bench.models.kernels.lstm import recurrence
from bench.training.flops import flop_counter

STEPS, BATCH, INPUTS, UNITS = 3, 2, 3, 4


def random_inputs(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]


@pytest.fixture
def inputs():
    """pre, h, c and weight."""
    return random_inputs((STEPS, BATCH, 4 * UNITS), (BATCH, UNITS), (BATCH, UNITS), (4 * UNITS, UNITS))


def test_both_gradients_match_finite_differences(inputs):
    assert gradcheck(recurrence, inputs) and gradgradcheck(recurrence, inputs)


def test_values_and_both_gradients_match_pytorch():
    lstm = nn.LSTM(INPUTS, UNITS).double()
    for parameter in lstm.parameters():
        nn.init.normal_(parameter)
    inputs = random_inputs((STEPS, BATCH, INPUTS), (BATCH, UNITS), (BATCH, UNITS))
    parameters = [*inputs, *lstm.parameters()]

    def ours(x, h, c):
        w_x, w_h, *biases = lstm.parameters()
        return recurrence(x @ w_x.t() + sum(biases), h, c, w_h)

    def theirs(x, h, c):
        states, (_, cell) = lstm(x, (h.unsqueeze(0), c.unsqueeze(0)))
        return states, cell.squeeze(0)

    results = []
    for function in (ours, theirs):
        values = function(*inputs)
        loss = sum(value.square().sum() for value in values)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in gradients[:3]), parameters)
        results.append([*values, *gradients, *second])
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_all_products_are_counted(inputs):
    """Forward one per step; backward one per step and that of the weight, the second time two of each."""
    product = 2 * STEPS * BATCH * UNITS * 4 * UNITS
    with flop_counter() as counter:
        states, _ = recurrence(*inputs)
        assert counter.get_total_flops() == product
        (gradient,) = torch.autograd.grad(states.sum(), inputs[0], create_graph=True)
        assert counter.get_total_flops() == 3 * product
        torch.autograd.grad(gradient.square().sum(), inputs)
    assert counter.get_total_flops() == (3 + 4) * product
