"""Runs side by side."""

import pytest
import yaml

from marey.errors import RunError
from marey.experiment.comparison import compare
from marey.tracking.base import RunDescription
from marey.tracking.jsonl import JsonlTracker


@pytest.fixture
def results(tmp_path):
    for name, lr, losses in (("slow", 0.1, (3.0, 2.0)), ("fast", 1.0, (1.0, 2.5))):
        folder = tmp_path / "runs" / name
        tracker = JsonlTracker()
        tracker.start(RunDescription(name, folder))
        for step, loss in enumerate(losses, 1):
            tracker.metrics(step, {"train/loss": loss, "validation/top1": 1 / loss, "speed/clips_per_second": 5.0})
        tracker.end("finished")
        settings = {"name": name, "optim": {"base_lr": lr}, "batch": 8}
        (folder / "settings.yaml").write_text(yaml.safe_dump({"settings": settings, "table_fingerprint": "same"}))
    return tmp_path


def test_differing_settings_and_last_and_best_metrics_are_told(results):
    found = compare(["slow", str(results / "runs/fast")], results)
    assert found.runs == ["slow", "fast"]
    assert found.settings == {"optim.base_lr": [0.1, 1.0]}
    assert found.metrics == {"train/loss": [(2.0, 2.0), (2.5, 1.0)], "validation/top1": [(0.5, 0.5), (0.4, 1.0)]}


def test_an_unknown_run_is_told_with_the_nearest(results):
    with pytest.raises(RunError, match="did you mean slow"):
        compare(["slwo", "fast"], results)
