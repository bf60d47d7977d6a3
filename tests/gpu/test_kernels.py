"""Hand-written layers on a GPU against the CPU in float64: values, first and second gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.models.architectures.lstm import LSTM
from bench.models.architectures.masked_cnn import MaskedConv
from bench.models.kernels.cross_entropy import chunked_token_nll, token_nll
from bench.models.kernels.lstm import recurrence
from bench.models.kernels.norm_elu import NormELU
from tests.gpu.conftest import DEVICE, relative_distance

pytestmark = pytest.mark.gpu
STEPS, BATCH, INPUTS, UNITS, VOCABULARY = 7, 6, 5, 16, 40
WORDS = torch.arange(BATCH) * 5 % VOCABULARY
Case = tuple[torch.nn.Module, Callable[..., tuple[Tensor, ...] | Tensor], list[tuple[int, ...]]]


def lstm_case(training: bool, twice: bool) -> Case:
    lstm = LSTM(INPUTS + 2, UNITS).train(training)
    lstm.second_order = twice

    def forward(x: Tensor, h: Tensor, c: Tensor, constant: Tensor) -> tuple[Tensor, ...]:
        states, (last, cell) = lstm(x, (h, c), constant)
        return states, last, cell

    state = (1, BATCH, UNITS)
    return lstm, forward, [(BATCH, STEPS, INPUTS), state, state, (BATCH, 2)]


def norm_case(training: bool) -> Case:
    norm = NormELU(8, above=2).train(training)
    norm.second_order = True
    return norm, norm, [(10, 8, 7, 6), (10, 8, 7, 6)]


def convolution_case() -> Case:
    layer = MaskedConv(4, 3, 5, centre=True)
    layer.second_order = True
    return layer, layer, [(2, 4, 8, 8)]


def nll_case(function: Callable[..., Tensor]) -> Case:
    nothing = torch.nn.Identity()
    return nothing, lambda h, w: function(h, w, WORDS.to(h.device)), [(BATCH, UNITS), (VOCABULARY, UNITS)]


#: Name → case, and whether it can be differentiated twice.
CASES: dict[str, tuple[Callable[[], Case], bool]] = {
    "recurrence": (
        lambda: (
            torch.nn.Identity(),
            recurrence,
            [(STEPS, BATCH, 4 * UNITS), (BATCH, UNITS), (BATCH, UNITS), (4 * UNITS, UNITS)],
        ),
        True,
    ),
    "lstm-twice": (lambda: lstm_case(training=True, twice=True), True),
    "lstm-twice-eval": (lambda: lstm_case(training=False, twice=True), True),
    "lstm-cudnn": (lambda: lstm_case(training=True, twice=False), False),
    "norm_elu": (lambda: norm_case(training=True), True),
    "norm_elu-eval": (lambda: norm_case(training=False), True),
    "conv2d": (convolution_case, True),
    "token_nll": (lambda: nll_case(token_nll), True),
    "chunked_token_nll": (lambda: nll_case(chunked_token_nll), False),
}


def results(create: Callable[[], Case], twice: bool, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Return values and gradients of the same function of the same numbers, on a device and in a type."""
    torch.manual_seed(0)
    module, function, shapes = create()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    inputs = [torch.randn(shape).to(device, dtype).requires_grad_() for shape in shapes]
    inputs += module.to(device, dtype).parameters()
    values = function(*inputs[: len(shapes)])
    values = [values] if isinstance(values, Tensor) else list(values)
    first = torch.autograd.grad(sum(v.sin().sum() for v in values), inputs, create_graph=twice)
    second = torch.autograd.grad(sum(g.sin().sum() for g in first), inputs) if twice else ()
    return [*values, *first, *second]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_layers_match_the_cpu_in_float64(name, dtype, tolerance):
    create, twice = CASES[name]
    expected = results(create, twice, "cpu", torch.float64)
    for value, reference in zip(results(create, twice, DEVICE, dtype), expected, strict=True):
        assert value.device.type == DEVICE and value.dtype == dtype
        assert relative_distance(value, reference) < tolerance


def test_frozen_weights_leave_the_gradient_of_the_states():
    """The branch of both likelihoods that holds no probabilities for the weight's gradient."""
    torch.manual_seed(0)
    states, weight = torch.randn(BATCH, UNITS, dtype=torch.float64), torch.randn(VOCABULARY, UNITS, dtype=torch.float64)
    gradients = []
    for device in ("cpu", DEVICE):
        h = states.to(device).requires_grad_()
        gradients.append(torch.autograd.grad(chunked_token_nll(h, weight.to(device), WORDS.to(device)).sum(), h)[0])
    assert relative_distance(gradients[1], gradients[0]) < 1e-10
