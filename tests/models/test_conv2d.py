"""Convolutions with second-order gradients, against PyTorch's."""

import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from bench.models.architectures.masked_cnn import MaskedConv, conv
from bench.models.kernels.conv2d import Conv2d, _Convolution
from bench.models.vae import second_order

LAYERS = {
    "strided": lambda: conv(4, 3, 3, stride=2, padding=1),
    "masked": lambda: MaskedConv(4, 3, 5, centre=True),
}


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    x, weight = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((2, 3, 4, 5), (2, 3, 3, 2)))

    def convolve(x, weight):
        return _Convolution.apply(x, weight[:], (2, 1), (1, 1))

    torch.testing.assert_close(convolve(x, weight), F.conv2d(x, weight, None, (2, 1), (1, 1)))
    assert gradcheck(convolve, (x, weight))
    assert gradgradcheck(convolve, (x, weight))


def test_second_order_gradients_match_pytorch(subtests):
    for layer in LAYERS:
        with subtests.test(layer=layer):
            results = []
            for within in (False, True):
                torch.manual_seed(0)
                module = LAYERS[layer]().double()
                x = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
                if within:
                    with second_order(module):
                        y = module(x)
                    assert "_Convolution" in type(y.grad_fn).__name__
                else:
                    y = module(x)
                (first,) = torch.autograd.grad(y.exp().sum(), x, create_graph=True)
                results.append((y, first, *torch.autograd.grad(first.pow(2).sum(), [x, module.weight])))
            torch.testing.assert_close(*results)


def test_unneeded_gradients_are_not_computed():
    layer = Conv2d(8, 8, 3, bias=False)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)

    def flops(inputs):
        with second_order(layer):
            y = layer(x * 1)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(y.sum(), inputs)
        return counter.get_total_flops()

    assert flops([x]) == flops([layer.weight]) == flops([x, layer.weight]) / 2
