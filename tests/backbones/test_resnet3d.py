"""3D ResNets: sizes, layers, and what they share with other families."""

import pytest
import torch
from torch import nn

import marey
from marey.errors import ConfigError
from marey.nn.droppath import set_keys
from marey.recipes.masked import MaskedConfig

NAMES = ["r3d_18", "mc3_18", "r2plus1d_18"]
SMALL = {"width": 8, "num_classes": 5}


@pytest.fixture
def clip():
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def test_planes_between_the_halves_of_a_convolution_are_those_of_the_paper():
    with torch.device("meta"):
        model = marey.create_model("r2plus1d_18")
    planes = [model.get_submodule(f"layer{stage}.0.conv1.0.0").out_channels for stage in (1, 2, 3, 4)]
    assert planes == [144, 230, 460, 921]
    assert model.get_submodule("layer2.0.conv2.0.0").out_channels == 230  # once for a block


@pytest.mark.parametrize(("name", "frames"), [("r3d_18", 1), ("mc3_18", 8), ("r2plus1d_18", 1)])
def test_layers_halve_space_and_unless_they_are_spatial_time(name, frames, clip):
    model = marey.create_model(name, **SMALL).eval()
    pyramid = model.pyramid(clip)
    assert [each.grid[1:] for each in pyramid] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert [each.tokens.shape[-1] for each in pyramid] == [8, 16, 32, 64]
    assert pyramid[-1].grid.t == frames
    features = model.features(clip)
    assert torch.equal(features.tokens, pyramid[-1].tokens)
    assert torch.allclose(model.fc(features.tokens.mean(1)), model(clip), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_layer_in_order_and_learns(name, clip):
    model = marey.create_model(name, **SMALL, depths=(1, 2, 1, 1))
    layers = [model.layer_of(parameter) for parameter, _ in model.named_parameters()]
    assert layers == sorted(layers)
    assert set(layers) == set(range(7))
    assert model.num_layers == 5
    model(clip).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_other_depths_and_widths_are_other_numbers():
    with torch.device("meta"):
        model = marey.create_model("r3d_18", depths=(3, 4, 6, 3), width=32)
    blocks = [module for module in model.modules() if type(module).__name__ == "BasicBlock"]
    assert len(blocks) == 16
    assert model.fc.in_features == 256


def test_a_single_frame_and_other_channels_are_taken():
    model = marey.create_model("r3d_18", **SMALL, frames=1, in_channels=1).eval()
    assert model(torch.randn(2, 1, 1, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"r3d_18 takes clips \[B, 1, T, H, W\], got \[2, 3, 8, 32, 32\]"):
        model(torch.zeros(2, 3, 8, 32, 32))


def test_drop_path_follows_each_clips_key(clip):
    model = marey.create_model("r3d_18", **SMALL, drop_path=0.5).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()  # so that clips of a batch do not depend on each other
    keys = torch.tensor([11, 12])
    set_keys(model, keys)
    both = model(clip)
    set_keys(model, keys[1:])
    assert torch.allclose(model(clip[1:]), both[1:], atol=1e-5)
    set_keys(model, keys + 7)
    assert not torch.allclose(model(clip), both)


def test_it_cannot_be_pre_trained_by_masking():
    with pytest.raises(ConfigError, match="'r3d_18' cannot be pre-trained by masking"):
        MaskedConfig().build(marey.backbones.zoo.configure("r3d_18", **SMALL))
