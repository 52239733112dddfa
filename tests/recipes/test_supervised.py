"""The supervised recipe: loss, augmentation by the clips' own keys, predictions."""

import pytest
import torch
from torch.nn import functional

from marey.backbones.zoo import configure
from marey.clips.batch import Batch
from marey.clips.erase import EraseConfig
from marey.clips.jitter import JitterConfig
from marey.clips.mix import MixConfig
from marey.clips.randaugment import RandAugmentConfig
from marey.config import override
from marey.errors import ConfigError
from marey.experiment import Training
from marey.nn.pixels import normalise
from marey.recipes.supervised import SupervisedConfig

TINY = configure("videomae_v2_tiny_16x224", frames=4, crop=32, depth=1, width=48, num_classes=5)
EVERYTHING = SupervisedConfig(
    label_smoothing=0.1,
    mix=MixConfig(mixup=0.8, cutmix=1.0),
    randaugment=RandAugmentConfig(ops=2),
    erase=EraseConfig(probability=0.5),
)


@pytest.fixture
def batch() -> Batch:
    pixels = torch.randint(0, 256, (8, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, torch.arange(8) * 7919 + 1, ("clip",) * 8, torch.arange(8) % 5)


def built(config: SupervisedConfig, repeats: int = 1):
    torch.manual_seed(0)
    recipe = config.build(TINY, repeats)
    torch.nn.init.normal_(recipe.model.head.weight)
    return recipe


def test_the_plain_loss_is_cross_entropy_and_top1_the_share_that_is_right(batch):
    recipe = built(SupervisedConfig())
    step, logits = recipe(batch), recipe.model(normalise(batch.clip))
    assert step.loss.item() == pytest.approx(functional.cross_entropy(logits, batch.label).item(), rel=1e-5)
    assert step.metrics["top1"].item() == (logits.argmax(1) == batch.label).float().mean().item()


def test_smoothing_is_torchs(batch):
    recipe = built(SupervisedConfig(label_smoothing=0.2))
    expected = functional.cross_entropy(recipe.model(normalise(batch.clip)), batch.label, label_smoothing=0.2)
    assert recipe(batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "config",
    [SupervisedConfig(randaugment=RandAugmentConfig(ops=1)), SupervisedConfig(jitter=JitterConfig(grey=0.5))],
    ids=["randaugment", "jitter"],
)
def test_the_model_sees_normalised_pixels_also_of_augmented_clips(batch, config):
    recipe, seen = built(config), []
    recipe.model.register_forward_pre_hook(lambda model, given: seen.append(given[0]))
    recipe(batch)
    plain = normalise(batch.clip)
    same = [torch.allclose(one, other, atol=1e-5) for one, other in zip(seen[0], plain, strict=True)]
    assert any(same)
    assert not all(same)
    assert seen[0].min() >= plain.min() - 1e-5
    assert seen[0].max() <= plain.max() + 1e-5


def test_what_is_drawn_does_not_depend_on_how_the_batch_is_cut(batch):
    recipe = built(EVERYTHING, repeats=2)
    parts = [Batch(batch.clip[s], batch.key[s], batch.clip_ids[s], batch.label[s]) for s in (slice(0, 4), slice(4, 8))]
    whole = recipe(batch).loss.item()
    assert whole == pytest.approx(sum(recipe(part).loss.item() for part in parts) / 2, rel=1e-5)
    assert whole != pytest.approx(built(SupervisedConfig())(batch).loss.item(), rel=1e-3)


def test_predictions_are_probabilities_of_the_clips_as_they_are(batch):
    recipe = built(EVERYTHING).eval()
    scores = recipe(batch, mode="predict").metrics["scores"]
    assert torch.allclose(scores, recipe.model(normalise(batch.clip)).softmax(1))
    assert torch.allclose(scores.sum(1), torch.ones(8))


def test_a_pre_training_model_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="no head for classes"):
        SupervisedConfig().build(configure("videomae_v2_tiny_pretrain", frames=4, crop=32, depth=1))


def test_rates_fall_layer_by_layer_from_the_head():
    recipe = built(SupervisedConfig())
    assert recipe.lr_scale("model.head.weight", 0.5) == 1
    assert recipe.lr_scale("model.blocks.0.norm1.weight", 0.5) == 0.5
    assert recipe.lr_scale("model.patch_embed.proj.weight", 0.5) == 0.25


def test_mixing_needs_whole_pairs_in_a_pass():
    training = Training(backbone=TINY, recipe=EVERYTHING, batch=16, repeats=2, split=None)
    assert training.micro_batch(1) == 16
    assert training.micro_batch(2) == 8
    with pytest.raises(ConfigError, match="a multiple of 4 clips"):
        override(training, ["engine.micro_batch=2"]).micro_batch(1)
