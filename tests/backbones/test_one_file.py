"""The page on adding a backbone is followed to the letter: its file, its registration, and what then works."""

import pytest
import torch

import marey
from marey.backbones import zoo
from marey.backbones.base import Classifier
from marey.clips.batch import Batch
from marey.config import override
from marey.experiment import Training
from marey.recipes.supervised import SupervisedConfig
from one_file import module_of


@pytest.fixture
def turns(tmp_path, monkeypatch):
    """The page's file as a module of the package, registered."""
    module = module_of("backbones.md", "## A backbone in one file", "marey.backbones.turns", tmp_path, monkeypatch)
    monkeypatch.setattr(zoo, "FAMILIES", (*zoo.FAMILIES, module))
    monkeypatch.setattr(zoo, "VARIANTS", zoo.variants())
    return module


def test_it_is_listed_created_and_loaded_like_any_other(turns):
    assert marey.list_models("turns_*") == ["turns_small", "turns_large"]
    model = marey.create_model("turns_small", depth=2, width=8, num_classes=5)
    assert isinstance(model, Classifier)
    clip = torch.randn(2, 3, 8, 32, 32)
    assert model(clip).shape == (2, 5)
    tokens, grid = model.features(clip)
    assert tokens.shape == (2, grid.tokens, 16)
    assert [model.layer_of(name) for name, _ in model.named_parameters()] == [1] * 4 + [2] * 4 + [3] * 2
    assert marey.load_published(model, {"model": model.state_dict()}) == ([], [])


def test_every_setting_of_it_can_be_said_in_a_job_and_it_trains(turns):
    training = Training(backbone="videomae_v2_tiny_16x224", recipe=SupervisedConfig())
    words = ["backbone=turns_small", "backbone.depth=2", "backbone.width=8", "backbone.num_classes=5"]
    changed = override(training, words)
    recipe = changed.recipe.build(changed.backbone)
    batch = Batch(
        torch.zeros(2, 3, 8, 32, 32, dtype=torch.uint8), torch.tensor([1, 2]), ("a", "b"), torch.tensor([0, 4])
    )
    recipe(batch).loss.backward()
    assert recipe.lr_scale("model.turns.0.0.weight", 0.5) == 0.25
