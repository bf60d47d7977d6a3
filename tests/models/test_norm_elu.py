"""NormELU against PyTorch's layers: values, first-order and second-order gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from bench.models.kernels import norm_elu
from bench.models.kernels.norm_elu import NormELU
from bench.models.vae import fixed_statistics

LAYOUTS = [torch.contiguous_format, torch.channels_last]


class Reference(nn.BatchNorm2d):
    """The definition by PyTorch's layers."""

    def __init__(self, channels, above):
        super().__init__(channels)
        self.above = above

    def forward(self, x, plus=None):
        h = super().forward(x)
        return F.pad(F.elu(h if plus is None else h + plus), (0, 0, self.above, 0))


def pair(channels, above, dtype=torch.float64, second_order=True):
    """The layer and its reference with the same parameters."""
    torch.manual_seed(0)
    layer, reference = NormELU(channels, above), Reference(channels, above)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    reference.load_state_dict(layer.state_dict())
    layer.second_order = second_order
    return layer.to(dtype), reference.to(dtype)


def maps(layout, *shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype).add(0.5).contiguous(memory_format=layout)


@pytest.fixture(autouse=True)
def chunks_of_three_images(monkeypatch):
    monkeypatch.setattr(norm_elu, "CHUNK_VALUES", 1000)


@pytest.mark.parametrize("second_order", [False, True])
def test_values_and_gradients_match_pytorch(second_order, subtests):
    for layout, mode, (with_plus, above) in itertools.product(
        LAYOUTS, ["train", "fixed", "eval"], [(True, 0), (False, 2)]
    ):
        with subtests.test(layout=layout, mode=mode, with_plus=with_plus):
            results = []
            for norm in pair(8, above, second_order=second_order):
                torch.manual_seed(1)
                for _ in range(2):  # the second pass starts from changed running averages
                    norm.train(mode != "eval")
                    before = [value.clone() for value in norm.state_dict().values()]
                    x, plus = (maps(layout, 10, 8, 7, 6).requires_grad_() for _ in range(2))
                    if mode == "fixed":
                        with fixed_statistics(norm):
                            y = norm(x, plus if with_plus else None)
                        assert all(map(torch.equal, norm.state_dict().values(), before))
                    else:
                        y = norm(x, plus if with_plus else None)
                    inputs = [x, *norm.parameters(), *([plus] if with_plus else [])]
                    gradients = torch.autograd.grad(y, inputs, maps(layout, *y.shape))
                results.append([y, *gradients, *norm.state_dict().values()])
                assert y.is_contiguous(memory_format=layout)
                assert not y[:, :, :above].any()
            torch.testing.assert_close(*results)


@pytest.mark.parametrize("second_order", [False, True])
def test_bfloat16_keeps_statistics_in_float32(second_order):
    layer, reference = pair(8, 1, torch.float32, second_order)
    x, plus = (maps(torch.channels_last, 10, 8, 7, 6, dtype=torch.bfloat16) for _ in range(2))
    y = layer(x, plus)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), reference(x.float(), plus.float()), rtol=2**-7, atol=2**-6)
    torch.testing.assert_close(layer.running_var, reference.running_var)


def test_one_value_per_channel_fails():
    with pytest.raises(ValueError, match="more than 1 value"):
        NormELU(3)(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("training", [True, False])
def test_second_order_gradients_match_finite_differences(training):
    norm, _ = pair(2, above=1)
    norm.train(training)
    norm.running_mean.normal_()
    x, plus = (maps(torch.channels_last, 3, 2, 3, 2).requires_grad_() for _ in range(2))
    parameters = [torch.randn_like(p).requires_grad_() for p in norm.parameters()]

    def forward(x, plus, *parameters):
        with fixed_statistics(norm):
            return torch.func.functional_call(norm, dict(zip(["weight", "bias"], parameters, strict=True)), (x, plus))

    assert gradcheck(forward, (x, plus, *parameters))
    assert gradgradcheck(forward, (x, plus, *parameters))


def test_second_order_gradients_match_pytorch(subtests):
    """The cotangents of the gradients of x, plus and the parameters, each alone."""
    for layout, through in itertools.product(LAYOUTS, ["x", "plus", "parameters", "all"]):
        with subtests.test(layout=layout, through=through):
            results = []
            for norm in pair(8, above=2):
                torch.manual_seed(1)
                x, plus = (maps(layout, 10, 8, 7, 6).requires_grad_() for _ in range(2))
                with fixed_statistics(norm):
                    y = norm(x, plus)
                first = torch.autograd.grad(y.exp().sum(), [x, plus, *norm.parameters()], create_graph=True)
                chosen = {"x": first[:1], "plus": first[1:2], "parameters": first[2:], "all": first}[through]
                penalty = sum(f.pow(3).sum() for f in chosen)
                results.append(torch.autograd.grad(penalty, [x, plus, *norm.parameters()]))
            torch.testing.assert_close(*results)


def test_third_order_gradients_fail():
    norm, _ = pair(2, above=0)
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(norm(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()
