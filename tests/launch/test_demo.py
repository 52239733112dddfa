"""The demonstration, on the session's cluster: from videos to a link, and Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from marey.clips.table import open_table
from marey.launch import demo
from submitting import ROOT, SMALL, checkpoints, until

pytestmark = pytest.mark.slow

CLIENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored where the tests run in the background
from types import SimpleNamespace
from marey.launch.submit import submit
submit(SimpleNamespace(environment=None), sys.argv[1:])
"""


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


def test_ctrl_c_stops_the_job_too(cluster, table, tmp_path: Path):
    words = [
        "jobs/pretrain_videomae.py",
        *SMALL,
        f"table={table.path}",
        f"results={tmp_path}",
        "name=long",
        "epochs=9999",
    ]
    environment = {**cluster.environment, "PYTHONPATH": str(ROOT / "platform")}
    command = [sys.executable, "-c", CLIENT, *words, "checkpoint.every=5"]
    client = subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)
    until(lambda: checkpoints(tmp_path, "long") or client.poll() is not None)
    assert client.poll() is None, "the client ended by itself"
    os.kill(client.pid, signal.SIGINT)
    client.wait(60)
    until(lambda: not [one for one in psutil.process_iter(["cmdline"]) if "name=long" in (one.info["cmdline"] or [])])
