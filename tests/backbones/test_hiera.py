"""Hiera: stages, units, what is hidden, what is learned."""

import numpy as np
import pytest
import torch

import marey
from marey.backbones import zoo
from marey.clips.batch import Batch
from marey.errors import ConfigError
from marey.nn.block import set_checkpointing
from marey.nn.droppath import set_keys
from marey.nn.pixels import denormalise
from marey.recipes.masked import MaskedConfig

SMALL = {"frames": 4, "crop": 64, "depths": (1, 1, 2, 1), "width": 16}
DECODER = {"decoder_width": 32, "decoder_depth": 1, "decoder_num_heads": 4}


@pytest.fixture
def clip():
    return torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pretrain():
    torch.manual_seed(0)
    return marey.create_model("hiera_tiny_16x224_pretrain", **SMALL, **DECODER).eval()


def masks(model, clips: int = 2, ratio: float = 0.5):
    rng = np.random.default_rng(0)
    return torch.stack([model.draw_masks(rng, ratio, 0.0)[0] for _ in range(clips)])


def test_stages_halve_space_and_double_the_width(clip):
    model = marey.create_model("hiera_tiny_16x224", **SMALL, num_classes=5).eval()
    pyramid = model.pyramid(clip)
    assert [each.grid for each in pyramid] == [(2, 16, 16), (2, 8, 8), (2, 4, 4), (2, 2, 2)]
    assert [each.tokens.shape[-1] for each in pyramid] == [16, 32, 64, 128]
    features = model.features(clip)
    assert torch.allclose(model.head(model.norm(features.tokens.mean(1))), model(clip), atol=1e-6)


def test_an_image_model_takes_images_and_clips_of_one_frame():
    model = marey.create_model("hiera_tiny_224", crop=64, depths=(1, 1, 1, 1), width=16).eval()
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(image), model(image[:, :, None]))
    with pytest.raises(ValueError, match=r"takes clips \[B, 3, 64, 64\], got \[2, 3, 4, 64, 64\]"):
        model(torch.zeros(2, 3, 4, 64, 64))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"crop": 112}, "crop=112 is not a multiple of the 32"),
        ({"frames": 5}, "frames=5"),
        ({"width": 97, "num_heads": 2}, "width=97"),
    ],
)
def test_sizes_that_do_not_fit_are_told(overrides, message):
    with pytest.raises(ConfigError, match=message):
        marey.create_model("hiera_base_16x224", **overrides)


def test_every_parameter_has_a_layer_in_order():
    model = marey.create_model("hiera_tiny_16x224", **SMALL)
    layers = [model.layer_of(name) for name, _ in model.named_parameters()]
    assert layers == sorted(layers)
    assert set(layers) == set(range(7))


def test_39_of_392_units_are_kept_at_a_ratio_of_nine_tenths():
    with torch.device("meta"):
        model = marey.create_model("hiera_base_16x224_pretrain")
    mask, skip = model.draw_masks(np.random.default_rng(0), 0.9, 0.0)
    assert (mask.shape[0], int((~mask).sum()), skip) == (392, 39, None)
    with pytest.raises(ConfigError, match=r"recipe.decoder_mask_ratio=0.5"):
        model.draw_masks(np.random.default_rng(0), 0.9, 0.5)


def test_blocks_compute_visible_units_only(pretrain, clip):
    seen = []
    for block in pretrain.blocks:
        block.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[1]))
    mask = masks(pretrain)
    kept = int((~mask[0]).sum())
    pretrain(clip, mask)
    assert seen == [64 * kept, 64 * kept, 16 * kept, 4 * kept, 4 * kept]


def test_hidden_pixels_do_not_reach_the_reconstruction(pretrain, clip):
    mask = masks(pretrain)
    hidden = mask.view(2, 1, 2, 2, 2).repeat_interleave(2, 2).repeat_interleave(32, 3).repeat_interleave(32, 4)
    other = torch.where(hidden, torch.randn_like(clip), clip)
    assert torch.equal(pretrain(clip, mask).reconstruction, pretrain(other, mask).reconstruction)
    assert not torch.equal(pretrain(clip, mask).targets, pretrain(other, mask).targets)


def test_a_perfect_prediction_gives_back_the_first_frame_of_each_slot(pretrain, clip):
    mask = masks(pretrain)
    targets = pretrain(clip, mask).targets
    pretrain.decoder_pred.register_forward_hook(lambda *_: targets)
    clip = clip.clone()
    clip[:, :, 1::2] = clip[:, :, ::2]
    _, masked, shown = pretrain.reconstruct(clip, mask)
    original = denormalise(clip).movedim(1, -1).clamp(0, 1)
    assert torch.allclose(shown, original, atol=1e-4)
    assert 0.4 < (masked == 0.5).float().mean() < 0.6


def test_all_parameters_learn_and_checkpointing_changes_nothing(pretrain, clip):
    mask, gradients = masks(pretrain), []
    pretrain.train()
    for on in (False, True):
        set_checkpointing(pretrain, on)
        pretrain.zero_grad()
        pretrain(clip, mask).loss.backward()
        gradients.append([p.grad.clone() for p in pretrain.parameters()])
    assert all(each.abs().sum() > 0 for each in gradients[0])
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(*gradients, strict=True))


def test_drop_path_follows_each_clips_key(clip):
    model = marey.create_model("hiera_tiny_16x224", **SMALL, drop_path=0.6).train()
    keys = torch.tensor([5, 6])
    set_keys(model, keys)
    both = model(clip)
    set_keys(model, keys[1:])
    assert torch.allclose(model(clip[1:]), both[1:], atol=1e-7)


def test_the_masked_recipe_trains_it(clip):
    torch.manual_seed(0)
    config = zoo.configure("hiera_tiny_16x224_pretrain", **SMALL, **DECODER)
    recipe = MaskedConfig(mask_ratio=0.5, decoder_mask_ratio=0.0).build(config)
    pixels = torch.randint(0, 256, (2, 3, 1, 8, 8), dtype=torch.uint8).repeat(1, 1, 4, 8, 8)
    batch = Batch(pixels, torch.tensor([1, 2]), ("a", "b"))
    optimizer = torch.optim.AdamW(recipe.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = recipe(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    images = recipe(batch, mode="picture").metrics
    assert {name: tuple(image.shape) for name, image in images.items()} == dict.fromkeys(
        ("original", "masked", "reconstructed"), (4, 64, 64, 3)
    )


def test_the_encoder_of_a_pre_training_starts_the_classifier(pretrain):
    model = marey.create_model("hiera_tiny_16x224", **SMALL, num_classes=3)
    fresh = zoo.start_from(model, pretrain.state_dict()).missing
    assert set(fresh) == {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    assert torch.equal(model.blocks[0].attn.qkv.weight, pretrain.blocks[0].attn.qkv.weight)
