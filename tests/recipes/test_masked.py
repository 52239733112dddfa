"""The masked recipe: masks belong to clips, not to batches."""

import pytest
import torch

from marey.backbones.zoo import configure
from marey.clips.batch import Batch
from marey.errors import ConfigError
from marey.recipes.masked import MaskedConfig

TINY = {"frames": 8, "crop": 32, "depth": 3, "width": 48, "decoder_width": 48, "decoder_depth": 1}


@pytest.fixture
def recipe():
    torch.manual_seed(0)
    return MaskedConfig(mask_ratio=0.75).build(configure("videomae_v2_tiny_pretrain", **TINY, drop_path=0.3))


def batch(first: int = 0, last: int = 8) -> Batch:
    pixels = torch.randint(0, 256, (8, 8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    keys = torch.arange(8) * 7919 + 3
    names = tuple(f"clip{number}" for number in range(first, last))
    return Batch(pixels[first:last].permute(0, 4, 1, 2, 3), keys[first:last], names)


def test_the_loss_does_not_depend_on_how_a_batch_is_cut(recipe):
    whole = recipe(batch()).loss
    parts = [recipe(batch(first, first + 2)).loss for first in range(0, 8, 2)]
    assert sum(parts).item() / 4 == pytest.approx(whole.item(), rel=1e-5)
    assert len({part.item() for part in parts}) == 4


def test_pictures_are_three_rows_of_frames(recipe):
    images = recipe.eval()(batch(), mode="picture").metrics
    assert list(images) == ["original", "masked", "reconstructed"]
    assert all((image.dtype, image.shape) == (torch.uint8, (8, 32, 32, 3)) for image in images.values())
    assert torch.equal(images["original"], batch().clip[0].movedim(0, -1))


def test_a_backbone_that_cannot_skip_tokens_is_refused():
    with pytest.raises(ConfigError, match="videomae_v2_tiny_16x224"):
        MaskedConfig().build(configure("videomae_v2_tiny_16x224"))


def test_the_mask_token_is_not_decayed(recipe):
    assert recipe.no_weight_decay == {"model.mask_token"}


def test_drop_path_is_on_in_training(recipe):
    assert recipe(batch()).loss != recipe.eval()(batch()).loss


def test_in_pictures_everything_hidden_is_reconstructed(recipe):
    images = recipe.eval()(batch(), mode="picture").metrics
    grey = (images["masked"] == 128).all(-1)
    assert grey.float().mean() == 0.75
    assert (images["reconstructed"][grey] != 128).any(-1).float().mean() > 0.99
