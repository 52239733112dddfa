"""A recipe is one file and one entry of the registry."""

from typing import ClassVar, Literal

import pytest
import torch

from marey.backbones.zoo import configure
from marey.clips.batch import Batch
from marey.config import override, to_tree, validate
from marey.errors import ConfigError
from marey.experiment import Training
from marey.nn.pixels import normalise
from marey.recipes import registry
from marey.recipes.base import Recipe, RecipeConfig, Step
from marey.recipes.supervised import SupervisedConfig

TINY = configure("videomae_v2_tiny_16x224", frames=4, crop=32, depth=1, width=48, num_classes=5)


class ArrowConfig(RecipeConfig):
    """Tells clips that are played backwards from those that are not."""

    kind: Literal["arrow"] = "arrow"
    """The arrow of time."""
    labelled: ClassVar[bool] = False
    margin: float = 1.0
    """Distance that is asked for."""

    def build(self, backbone, repeats=1) -> "Arrow":
        return Arrow(self, backbone.build())


class Arrow(Recipe):
    """One file."""

    def __init__(self, config, model) -> None:
        super().__init__()
        self.config, self.model = config, model

    def forward(self, batch, mode="train") -> Step:
        clip = normalise(batch.clip)
        forwards, backwards = self.model(clip)[:, 0], self.model(clip.flip(2))[:, 0]
        return Step((self.config.margin - forwards + backwards).relu().mean(), {})


def test_a_new_recipe_is_a_setting_like_any_other(monkeypatch):
    monkeypatch.setattr(registry, "RECIPES", (*registry.RECIPES, ArrowConfig))
    training = Training(backbone=TINY, recipe={"kind": "arrow"})
    changed = override(training, ["recipe.margin=0.5"])
    assert changed.recipe == ArrowConfig(margin=0.5)
    assert validate(Training, to_tree(changed)) == changed
    recipe = changed.recipe.build(changed.backbone)
    batch = Batch(torch.randint(0, 255, (2, 3, 4, 32, 32), dtype=torch.uint8), torch.tensor([1, 2]), ("a", "b"))
    assert recipe(batch).loss.item() > 0
    with pytest.raises(ConfigError, match=r"recipe\.marginn: no such setting; did you mean 'recipe\.margin'"):
        override(training, ["recipe.marginn=1"])


def test_an_unknown_kind_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'supervised'"):
        Training(backbone=TINY, recipe={"kind": "supervized"})


def test_settings_that_a_recipe_cannot_use_are_refused():
    with pytest.raises(ValueError, match="has no validation"):
        Training(backbone="videomae_v2_tiny_pretrain", validation={"split": "test"})
    with pytest.raises(ValueError, match=r"needs validation\.split"):
        Training(backbone=TINY, recipe=SupervisedConfig(), checkpoint={"keep_best": "top1"})
