"""What a worker does before the first step: the weights to start from."""

import re
import shutil

import pytest

from marey.clips import loader
from marey.config import override
from marey.engine import checkpoint
from marey.errors import WeightsError
from marey.experiment import Training, assemble
from tiny_training import run, tiny


def finetuning(table, init, *words: str) -> Training:
    training = Training(
        backbone={"name": "videomae_v2_base_16x224", "num_classes": 8, "frames": 8, "crop": 32},
        recipe={"kind": "supervised"}, clips={"stride": 1}, batch=8, epochs=1, init=str(init),
        engine={"device": "cpu"}, checkpoint={"every": 99},
    )  # fmt: skip
    return assemble.resolve(override(training, words), table)


def test_weights_of_another_size_are_refused_with_the_settings_that_fit(labelled, tmp_path):
    run(tiny(), labelled, tmp_path / "before", steps=4)
    with pytest.raises(WeightsError) as refused:
        assemble.train(finetuning(labelled, tmp_path / "before"), labelled, tmp_path / "after", loader.feed, None)
    told = str(refused.value)
    with pytest.raises(WeightsError) as refused:
        assemble.check_start(finetuning(labelled, tmp_path / "before"), tmp_path / "after")
    assert str(refused.value) == told
    assert "they are of videomae_v2_tiny_pretrain; add " in told
    words = re.findall(r"backbone\.\S+", told)
    assert "backbone.depth=1" in words
    fitting = finetuning(labelled, tmp_path / "before", *words)
    assemble.check_start(fitting, tmp_path / "after")
    assert assemble.train(fitting, labelled, tmp_path / "after", loader.feed, None) is None
    longer = fitting.replace(epochs=2)  # whose weights to start from may be gone by then
    begun = checkpoint.reference(checkpoint.newest(tmp_path / "before/checkpoints").path)
    shutil.rmtree(tmp_path / "before")
    assert assemble.train(longer, labelled, tmp_path / "after", loader.feed, None) is None
    first, last = (checkpoint.verify(path) for path in checkpoint.steps(tmp_path / "after/checkpoints"))
    assert first.state["lineage"]["init"] == last.state["lineage"]["init"] == begun
    assert last.state["lineage"]["parent"] == checkpoint.reference(first.path)


def test_weights_of_another_family_are_refused_by_its_name(labelled, tmp_path):
    run(tiny(), labelled, tmp_path / "before", steps=4)
    words = ["backbone=r3d_18", "backbone.width=8", "backbone.frames=8", "backbone.crop=32"]
    other = finetuning(labelled, tmp_path / "before", *words)
    with pytest.raises(WeightsError, match=r"videomae_v2_tiny_pretrain, which is another family than r3d_18"):
        assemble.train(other, labelled, tmp_path / "after", loader.feed, None)
