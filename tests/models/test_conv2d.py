"""Convolutions that are differentiated twice, against PyTorch's and by finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from bench.models.image import MaskedConv, conv
from bench.models.kernels.conv2d import Conv2d, _Convolution
from bench.models.vae import second_order

LAYERS = {
    "narrow": lambda: conv(4, 3, 1),
    "strided": lambda: conv(4, 3, 3, stride=2, padding=1),
    "masked": lambda: MaskedConv(4, 3, 5, centre=True),
}


@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_second_gradients_by_finite_differences(stride):
    torch.manual_seed(0)
    x, weight = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((2, 3, 4, 5), (2, 3, 3, 2)))

    def convolve(x, weight):
        return _Convolution.apply(x, weight[:], stride, (1, 1))

    torch.testing.assert_close(convolve(x, weight), F.conv2d(x, weight, None, stride, (1, 1)))
    assert gradcheck(convolve, (x, weight))
    assert gradgradcheck(convolve, (x, weight))


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_give_the_same_gradients_within_second_order(layer):
    results = []
    for twice in (False, True):
        torch.manual_seed(0)
        made = LAYERS[layer]().double()
        x = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
        if twice:
            with second_order(made):
                y = made(x)
            assert "_Convolution" in type(y.grad_fn).__name__
        else:
            y = made(x)
        (first,) = torch.autograd.grad(y.exp().sum(), x, create_graph=True)
        results.append((y, first, *torch.autograd.grad(first.pow(2).sum(), [x, made.weight])))
    torch.testing.assert_close(*results)
    assert not made.second_order


def test_gradients_that_nobody_wants_are_not_computed():
    layer = Conv2d(8, 8, 3, bias=False)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)

    def flops(wanted):
        with second_order(layer):
            y = layer(x * 1)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(y.sum(), wanted)
        return counter.get_total_flops()

    assert flops([x]) == flops([layer.weight]) == flops([x, layer.weight]) / 2
