"""Our BatchNorm2d against PyTorch's: first gradients to the bit, second ones by finite differences."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from bench.models.norm import BatchNorm2d
from bench.models.vae import fixed_statistics

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def pair(channels, **options):
    """Our layer and PyTorch's, with the same parameters."""
    ours, reference = BatchNorm2d(channels, **options), nn.BatchNorm2d(channels, **options)
    if ours.affine:
        nn.init.normal_(ours.weight)
        nn.init.normal_(ours.bias)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def maps(layout, *shape):
    return torch.randn(shape).add(0.5).contiguous(memory_format=layout)


def state(norm):
    return [value for value in norm.state_dict().values() if value is not None]


def assert_same(got, wanted):
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["train", "fixed", "eval"])
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"eps": 0.1, "momentum": 0.3}, {"affine": False}, {"track_running_stats": False}],
)
def test_to_the_bit(layout, mode, options):
    torch.manual_seed(0)
    norms = pair(8, **options)
    for _ in range(2):  # so that running averages have a past
        x, g = maps(layout, 10, 8, 7, 6), maps(layout, 10, 8, 7, 6)
        results = []
        for norm in norms:
            norm.train(mode != "eval")
            before = [value.clone() for value in state(norm)]
            leaf = x.clone().requires_grad_()
            if mode == "fixed":
                with fixed_statistics(norm):
                    y = norm(leaf)
                assert_same(state(norm), before)
            else:
                y = norm(leaf)
            results.append([y, *torch.autograd.grad(y, [leaf, *norm.parameters()], g), *state(norm)])
        assert_same(*results)


def test_single_value_per_channel_is_refused():
    with pytest.raises(ValueError, match="more than 1 value"):
        BatchNorm2d(3, track_running_stats=False)(torch.zeros(1, 3, 1, 1))


def test_frozen_parameters_get_no_gradient():
    norm = BatchNorm2d(3, track_running_stats=False)
    norm.weight.requires_grad_(False)
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    norm(x).square().sum().backward()
    assert norm.weight.grad is None
    assert norm.bias.grad is not None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("affine", [True, False])
def test_second_gradients_by_finite_differences(layout, affine):
    torch.manual_seed(0)
    norm = BatchNorm2d(2, affine=affine, track_running_stats=False).double()
    x = maps(layout, 3, 2, 2, 2).double().requires_grad_()
    parameters = [torch.randn_like(p).requires_grad_() for p in norm.parameters()]

    def forward(x, *parameters):
        named = dict(zip(["weight", "bias"], parameters, strict=False))
        return torch.func.functional_call(norm, named, x)

    assert gradcheck(forward, (x, *parameters))
    assert gradgradcheck(forward, (x, *parameters))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("through", ["x", "parameters", "all"])
def test_second_gradients_of_pytorch(layout, through):
    """Each cotangent alone: that of x's gradient, or those of the parameters'."""
    torch.manual_seed(0)
    x = maps(layout, 10, 8, 7, 6).requires_grad_()
    results = []
    for norm in pair(8):
        norm.double()
        leaf = x.detach().double().requires_grad_()
        with fixed_statistics(norm):
            y = norm(leaf)
        assert (type(y.grad_fn).__name__ == "_NormaliseBackward") == isinstance(norm, BatchNorm2d)
        first = torch.autograd.grad(y.exp().sum(), [leaf, *norm.parameters()], create_graph=True)
        chosen = {"x": first[:1], "parameters": first[1:], "all": first}[through]
        penalty = sum(f.pow(3).sum() for f in chosen)
        results.append(torch.autograd.grad(penalty, [leaf, *norm.parameters()]))
    torch.testing.assert_close(*results)


def test_third_gradients_are_refused():
    norm = BatchNorm2d(2, track_running_stats=False)
    x = torch.randn(3, 2, 2, 2, requires_grad=True)
    (first,) = torch.autograd.grad(norm(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()
