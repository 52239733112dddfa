"""The demonstration, on the session's cluster: from videos to a link."""

from pathlib import Path

import pytest

from marey.clips.table import open_table
from marey.launch import demo
from submitting import SMALL

pytestmark = pytest.mark.slow


def test_from_packaged_videos_to_a_link(cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    videos = demo._packaged_videos(tmp_path)
    assert len(list(videos.glob("*.mp4"))) == 4
    assert demo.run(cluster, videos, tmp_path, [*SMALL, "epochs=2", "optim.warmup_epochs=1"]) == 0
    shown = capfd.readouterr().out
    for text in (
        "$ ray job submit",
        "4 of 4 videos",
        "loss",
        "checkpoint",
        "picture",
        "mlflow ui",
        "http://127.0.0.1:5000/#",
    ):
        assert text in shown
    assert "TrainController" not in shown


def test_epochs_follow_from_the_number_of_clips(table):
    words = dict(word.split("=") for word in demo._enough_epochs(table.path))
    steps = float(words["epochs"]) * len(open_table(table.path)) * 4 / 8
    assert steps == pytest.approx(demo.STEPS, rel=0.01)
