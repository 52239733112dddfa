"""Stochastic depth: a clip's own key decides, wherever in a batch it is."""

import pytest
import torch
from torch import nn

from marey.nn.block import Blocks
from marey.nn.droppath import DropPath, rates, set_keys, uniform

WORD = 2**64
KEYS = torch.randint(2**63 - 1, (4000,), generator=torch.Generator().manual_seed(0))


def splitmix(key: int, stream: int) -> float:
    """SplitMix64 (Steele et al. 2014) in Python's whole numbers: the key moved by the stream, then mixed."""
    z = (key + (stream + 1) * 0x9E3779B97F4A7C15) % WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return ((z ^ z >> 31) >> 11) / 2**53


def dropping(rate: float, layer: int = 0, keys: torch.Tensor | None = None) -> DropPath:
    module = DropPath(rate, layer)
    module.keys = keys
    return module


@pytest.mark.parametrize("stream", [0, 1, 23, 1000])
def test_uniform_is_splitmix(stream: int):
    keys = torch.cat((KEYS[:50], torch.tensor([0, 1, 2**63 - 1, -1, -(2**63)])))
    assert uniform(keys, stream).tolist() == [splitmix(key, stream) for key in keys.tolist()]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drops_at_its_rate(rate: float):
    kept = dropping(rate, keys=KEYS)(torch.ones(len(KEYS), 1)) > 0
    assert 1 - kept.float().mean().item() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(KEYS)) ** 0.5)


def test_neighbouring_keys_and_layers_are_independent():
    neighbours = uniform(torch.arange(4000), 0)
    columns = torch.stack((neighbours[:-1], neighbours[1:], uniform(torch.arange(3999), 1)))
    correlation = torch.corrcoef(columns) - torch.eye(3)
    assert correlation.abs().max() < 0.06


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    out = dropping(0.2, keys=KEYS)(torch.ones(len(KEYS), 2, 3))
    assert set(out.unique().tolist()) == {0.0, 1.25}


def test_a_whole_clip_is_dropped_or_kept():
    out = dropping(0.5, keys=KEYS[:64])(torch.ones(64, 5, 7)).flatten(1)
    assert (out == out[:, :1]).all()


@pytest.mark.parametrize("part", [1, 3, 8])
def test_the_choice_does_not_depend_on_how_the_batch_is_cut(part: int):
    x = torch.randn(24, 3)
    parts = zip(x.split(part), KEYS[:24].split(part), strict=True)
    cut = torch.cat([dropping(0.5, 3, keys)(clip) for clip, keys in parts])
    assert torch.equal(cut, dropping(0.5, 3, KEYS[:24])(x))


def test_layers_choose_differently():
    x = torch.ones(64, 1)
    assert not torch.equal(dropping(0.5, 0, KEYS[:64])(x), dropping(0.5, 1, KEYS[:64])(x))


def test_every_branch_of_a_stack_has_a_stream_of_its_own():
    layers = [module for module in Blocks(5, 12, 2, 2.0, 0.4).modules() if isinstance(module, DropPath)]
    assert len(layers) == len({module.layer for module in layers}) == 10
    assert [module.rate for module in layers] == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4])


def test_evaluation_and_rate_zero_change_nothing():
    x = torch.randn(8, 3)
    assert torch.equal(dropping(0.5, keys=KEYS[:8]).eval()(x), x)
    assert torch.equal(dropping(0.0, keys=KEYS[:8])(x), x)


def test_without_keys_torchs_generator_decides():
    x = torch.ones(64, 1)
    torch.manual_seed(0)
    first, second = dropping(0.5)(x), dropping(0.5)(x)
    torch.manual_seed(0)
    assert torch.equal(dropping(0.5)(x), first)
    assert not torch.equal(first, second)


def test_keys_reach_every_layer_and_can_be_taken_back():
    model = nn.Sequential(DropPath(0.1, 0), nn.Sequential(DropPath(0.1, 1)))
    set_keys(model, KEYS[:2])
    assert model[0].keys is model[1][0].keys is not None
    set_keys(model, None)
    assert model[0].keys is model[1][0].keys is None


def test_rates_grow_linearly_from_zero():
    assert rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates(0.3, 1) == [0.0]


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_refused(rate: float):
    with pytest.raises(ValueError, match=f"drop_path={rate}"):
        DropPath(rate, 0)
