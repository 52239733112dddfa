"""What decays, and the rate by step."""

import pytest
import torch

from marey.backbones.zoo import configure
from marey.engine.optim import OptimConfig, optimizer, parameter_groups, schedule
from marey.recipes.masked import MaskedConfig


def test_only_matrices_decay():
    config = configure("videomae_v2_tiny_pretrain", depth=1, decoder_depth=1, frames=4, crop=32)
    recipe = MaskedConfig().build(config)
    decayed, free = parameter_groups(recipe, 0.05, recipe.no_weight_decay)
    names = {id(parameter): name for name, parameter in recipe.named_parameters()}
    kept = {names[id(parameter)] for parameter in free["params"]}
    assert "model.mask_token" in kept
    assert all(name.endswith(("bias", "mask_token")) or "norm" in name for name in kept)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_the_rate_warms_up_from_zero_and_falls_to_the_minimum_scaled_by_the_batch():
    plan = schedule(
        OptimConfig(base_lr=1e-3, min_lr=1e-5, warmup_epochs=2), batch=512, total_steps=101, steps_per_epoch=5
    )
    assert plan.lr(0) == 0
    assert plan.lr(5) == pytest.approx(1e-3)
    assert plan.lr(10) == pytest.approx(2e-3)
    assert plan.lr(55) == pytest.approx((2e-3 + 2e-5) / 2)
    assert plan.lr(100) == pytest.approx(2e-5)
    rates = [plan.lr(step) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_the_optimiser_is_adamw_as_pytorch_has_it():
    one, other = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    ours = optimizer([{"params": [one], "weight_decay": 0.1}], OptimConfig())
    plain = torch.optim.AdamW([other], lr=1.5e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    for _ in range(3):
        one.grad = other.grad = torch.tensor([0.3, 0.4])
        ours.step()
        plain.step()
    assert torch.allclose(one, other, atol=1e-7)
