"""A checkpoint is whole or does not exist; a damaged one is set aside and the one before it taken."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marey.engine import checkpoint
from marey.engine.checkpoint import CheckpointConfig, newest, prune, read, save, steps
from marey.engine.strategy import TrainState
from marey.errors import CheckpointError

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")

KILLED = """
import sys, os, torch
from pathlib import Path
from marey.engine import checkpoint
from marey.engine.strategy import TrainState
calls = 0
def traced(frame, event, argument):
    global calls
    if event in ("call", "c_call") and frame.f_code.co_filename == checkpoint.__file__:
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
sys.setprofile(traced)
state = TrainState({"w": torch.ones(1000)}, {"w": {"exp_avg": torch.ones(1000), "exp_avg_sq": torch.ones(1000)}}, 2)
checkpoint.save(Path(sys.argv[1]), state, {"step": 2})
"""


def state(value: float = 1.0) -> TrainState:
    weights = {"model.a": torch.full((3, 4), value), "model.b": torch.full((5,), value)}
    moments = {"model.a": {key: torch.full((3, 4), value / 2) for key in ("exp_avg", "exp_avg_sq")}}
    return TrainState(weights, moments, optimizer_steps=7)


def test_what_is_read_is_what_was_saved(tmp_path):
    save(tmp_path, state(), {"step": 3, "seed": 5})
    found = newest(tmp_path)
    back = read(found)
    assert (found.step, found.state["seed"], back.optimizer_steps) == (3, 5, 7)
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in state().weights.items())
    assert torch.equal(back.moments["model.a"]["exp_avg_sq"], state().moments["model.a"]["exp_avg_sq"])
    assert {path.name for path in found.path.iterdir()} == set(FILES)


def test_large_states_are_cut_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 50)
    found = save(tmp_path, state(), {"step": 1})
    assert (found.path / "weights-00001-of-00002.safetensors").exists()
    assert read(newest(tmp_path)).weights.keys() == state().weights.keys()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "empty"])
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_taken(tmp_path, name, damage):
    save(tmp_path, state(1.0), {"step": 1})
    file = save(tmp_path, state(2.0), {"step": 2}).path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x55
    {
        "flip": lambda: file.write_bytes(content),
        "cut": lambda: file.write_bytes(content[:-9]),
        "delete": file.unlink,
        "empty": lambda: file.write_bytes(b""),
    }[damage]()
    told = []
    assert newest(tmp_path, told.append).step == 1
    assert "damaged-000000000002" in told[0]
    assert (tmp_path / "damaged-000000000002").is_dir()
    assert newest(tmp_path, told.append).step == 1
    assert len(told) == 1


@pytest.mark.parametrize("call", [2, 4, 6, 8, 10, 12, 14, 17, 20, 24])
def test_a_writer_killed_at_any_point_leaves_the_old_or_the_new(tmp_path, call):
    save(tmp_path, state(), {"step": 1})
    environment = {**os.environ, "PYTHONPATH": str(Path(checkpoint.__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(call)], env=environment)
    assert ended.returncode in (-signal.SIGKILL, 0)
    told: list[str] = []
    found = newest(tmp_path, told.append)
    assert found.step == (2 if ended.returncode == 0 or (tmp_path / "000000000002").exists() else 1)
    assert not told
    prune(tmp_path, CheckpointConfig(), best=None)
    assert not list(tmp_path.glob(".writing-*"))


def test_a_failing_disk_leaves_the_old_one_and_no_rest(tmp_path, monkeypatch):
    save(tmp_path, state(), {"step": 1})
    monkeypatch.setattr(
        checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, state(), {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001"]


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, state(), {"step": step})
    prune(tmp_path, CheckpointConfig(keep_last=2), best=2)
    assert [int(path.name) for path in steps(tmp_path)] == [2, 4, 5]


def test_another_format_is_refused_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    path = save(tmp_path, state(), {"step": 1}).path
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format version 99"):
        checkpoint.verify(path)


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert newest(tmp_path / "none") is None
