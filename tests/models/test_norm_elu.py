"""NormELU against PyTorch's layers: values, first gradients, and second ones by finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from bench.models.kernels import norm_elu as module
from bench.models.kernels.norm_elu import NormELU
from bench.models.vae import fixed_statistics

LAYOUTS = [torch.contiguous_format, torch.channels_last]


class Plain(nn.BatchNorm2d):
    """The definition."""

    def __init__(self, channels, above):
        super().__init__(channels)
        self.above = above

    def forward(self, x, plus=None):
        h = super().forward(x)
        return F.pad(F.elu(h if plus is None else h + plus), (0, 0, self.above, 0))


def pair(channels, above, dtype=torch.float64):
    """Our layer and the definition, with the same parameters."""
    torch.manual_seed(0)
    ours, plain = NormELU(channels, above), Plain(channels, above)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    plain.load_state_dict(ours.state_dict())
    return ours.to(dtype), plain.to(dtype)


def maps(layout, *shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype).add(0.5).contiguous(memory_format=layout)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 1000)  # three images of those below


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["train", "fixed", "eval"])
@pytest.mark.parametrize("with_plus", [True, False])
@pytest.mark.parametrize("above", [0, 2])
def test_equals_the_definition(layout, mode, with_plus, above, small_pieces):
    results = []
    for norm in pair(8, above):
        torch.manual_seed(1)
        for _ in range(2):  # so that running averages have a past
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


def test_single_precision_loses_nothing():
    """Against the definition in double precision: no worse than PyTorch's own layers are, but for a few last bits."""
    norms, errors = pair(8, 0, torch.float32), []
    x = maps(torch.channels_last, 20, 8, 14, 14, dtype=torch.float32)
    truth = pair(8, 0)[1](x.double())
    for norm in norms:
        errors.append((norm(x).double() - truth).abs().max())
    assert errors[0] < 2 * errors[1]
    assert errors[0] < 1e-5


def test_half_precision_is_computed_in_single():
    ours, plain = pair(8, 1, torch.float32)
    x, plus = (maps(torch.channels_last, 10, 8, 7, 6, dtype=torch.bfloat16) for _ in range(2))
    y = ours(x, plus)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, y.float().bfloat16())
    torch.testing.assert_close(y.float(), plain(x.float(), plus.float()), rtol=2**-8, atol=1e-6)


def test_single_value_per_channel_is_refused():
    with pytest.raises(ValueError, match="more than one value"):
        NormELU(3)(torch.zeros(1, 3, 1, 1))


def test_frozen_parameters_get_no_gradient():
    norm = NormELU(3)
    norm.weight.requires_grad_(False)
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    norm(x).square().sum().backward()
    assert norm.weight.grad is None
    assert norm.bias.grad is not None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_second_gradients_by_finite_differences(layout, training, small_pieces):
    norm, _ = pair(2, above=1)
    norm.train(training)
    norm.running_mean.normal_()
    x, plus = (maps(layout, 3, 2, 3, 2).requires_grad_() for _ in range(2))
    parameters = [torch.randn_like(p).requires_grad_() for p in norm.parameters()]

    def forward(x, plus, *parameters):
        with fixed_statistics(norm):
            return torch.func.functional_call(norm, dict(zip(["weight", "bias"], parameters, strict=True)), (x, plus))

    assert gradcheck(forward, (x, plus, *parameters))
    assert gradgradcheck(forward, (x, plus, *parameters))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("through", ["x", "plus", "parameters", "all"])
def test_second_gradients_of_pytorch(layout, through, small_pieces):
    """Each cotangent alone: those of the gradients of x, of plus, or of the parameters."""
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


def test_third_gradients_are_refused():
    norm = NormELU(2)
    x = torch.randn(3, 2, 2, 2, requires_grad=True)
    (first,) = torch.autograd.grad(norm(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()
