"""Trained weights by any name that a user has for them."""

import pytest
import torch
from safetensors.torch import save_file

from marey.backbones.zoo import configure, create_model
from marey.engine import checkpoint
from marey.engine.train_state import TrainState
from marey.errors import CheckpointError, ConfigError
from marey.inference.opened import open_weights

SIZES = {"frames": 4, "crop": 32, "depth": 1, "width": 48, "num_classes": 3}
CONFIG = configure("videomae_v2_tiny_16x224", **SIZES)


@pytest.fixture
def results(tmp_path):
    """A run of two checkpoints, of which the first was the best and the last holds a moving average."""
    directory = tmp_path / "runs" / "walking" / "checkpoints"
    lineage = {"settings": {"backbone": CONFIG.model_dump(mode="json"), "table": "/t"}, "classes": ["a", "b", "c"]}
    for step, value in ((10, 0.1), (20, 0.2)):
        weights = {f"model.{name}": torch.full_like(t, value) for name, t in CONFIG.build().state_dict().items()}
        ema = {name: tensor + 1 for name, tensor in weights.items()} if step == 20 else {}
        checkpoint.save(directory, TrainState(weights, ema=ema), {"step": step, "best_step": 10, "lineage": lineage})
    return tmp_path


def value(opened) -> float:
    return round(float(opened.model().head.bias[0]), 3)


def test_a_run_opens_at_its_best_checkpoint_or_its_last_with_the_moving_average(results):
    best = open_weights("walking", results)
    assert (best.step, value(best), best.classes) == (10, 0.1, ("a", "b", "c"))
    assert best.backbone == CONFIG
    assert value(open_weights("walking", results, "last")) == 1.2
    assert value(open_weights(str(results / "runs/walking"), results)) == 0.1
    assert value(open_weights(str(results / "runs/walking/checkpoints/000000000020"), results)) == 1.2


def test_a_file_opens_with_the_model_that_is_named(results, tmp_path):
    path = tmp_path / "weights.safetensors"
    model = create_model("videomae_v2_tiny_16x224", **SIZES)
    save_file(model.state_dict(), path)
    opened = open_weights(str(path), results)
    with pytest.raises(ConfigError, match="backbone=NAME"):
        opened.model()
    assert torch.equal(opened.model(CONFIG).head.weight, model.head.weight)


def test_the_weights_file_inside_a_checkpoint_opens_like_any_file(results):
    [path] = (results / "runs/walking/checkpoints/000000000010").glob("weights*.safetensors")
    model = open_weights(str(path), results).model(CONFIG)
    assert round(float(model.head.bias[0]), 3) == 0.1


def test_what_is_not_there_is_told_with_the_nearest(results):
    with pytest.raises(CheckpointError, match="did you mean walking"):
        open_weights("wlaking", results)
    with pytest.raises(CheckpointError, match="no such file"):
        open_weights("/nowhere/w.safetensors", results)
    (results / "runs/empty/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        open_weights("empty", results)
