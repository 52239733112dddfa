"""The page on adding a recipe is followed to the letter: its file, its registration, and what then works."""

import pytest

from marey.config import override
from marey.errors import ConfigError
from marey.recipes import registry
from one_file import module_of
from tiny_training import run, tiny

SMALL = ["backbone=videomae_v2_tiny_16x224", "backbone.frames=8", "backbone.crop=32", "backbone.depth=1"]


@pytest.fixture
def arrow(tmp_path, monkeypatch):
    """The page's file as a module of the package, registered."""
    module = module_of("training.md", "## A recipe in one file", "marey.recipes.arrow", tmp_path, monkeypatch)
    monkeypatch.setattr(registry, "RECIPES", (*registry.RECIPES, module.ArrowConfig))
    return module


def test_it_takes_the_place_of_a_job_s_recipe_and_trains(arrow, table, tmp_path):
    words = [*SMALL, "backbone.num_classes=2", "recipe=arrow", "recipe.reversed=0.4"]
    training = override(tiny(), words)
    assert training.recipe == arrow.ArrowConfig(reversed=0.4)
    diary, _ = run(training, table, tmp_path / "run", steps=2)
    assert set(diary.losses()) == {1, 2}


def test_a_backbone_that_does_not_fit_is_refused(arrow):
    training = override(tiny(), [*SMALL, "backbone.num_classes=3", "recipe=arrow"])
    with pytest.raises(ConfigError, match=r"needs a classifier with backbone\.num_classes=2"):
        training.recipe.build(training.backbone)
