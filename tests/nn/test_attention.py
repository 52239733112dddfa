"""Attention equals its formula."""

import pytest
import torch

from marey.nn.attention import Attention


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    module = Attention(24, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3)
    return module.double()


def naive(module: Attention, x: torch.Tensor, key_bias: float = 0.0) -> torch.Tensor:
    b, n, d = x.shape
    weight = module.qkv.weight.view(3, d, d)
    biases = (module.q_bias, torch.full((d,), key_bias, dtype=x.dtype), module.v_bias)
    q, k, v = (
        (x @ w.T + bias).view(b, n, module.num_heads, -1).transpose(1, 2)
        for w, bias in zip(weight, biases, strict=True)
    )
    weights = (q @ k.transpose(-1, -2) / (d // module.num_heads) ** 0.5).softmax(-1)
    return module.proj((weights @ v).transpose(1, 2).flatten(2))


def test_equals_softmax_attention(attention):
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(attention(x), naive(attention, x))


def test_a_key_bias_would_change_nothing(attention):
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(attention(x), naive(attention, x, key_bias=1.7))


def test_queries_and_values_have_a_bias_and_keys_none(attention):
    shapes = {name: tuple(parameter.shape) for name, parameter in attention.named_parameters()}
    assert shapes == {
        "q_bias": (24,),
        "v_bias": (24,),
        "qkv.weight": (72, 24),
        "proj.weight": (24, 24),
        "proj.bias": (24,),
    }


def test_every_parameter_gets_a_gradient(attention):
    attention(torch.randn(1, 5, 24, dtype=torch.float64)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in attention.parameters())


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width=10 is not a multiple of num_heads=3"):
        Attention(10, 3)
