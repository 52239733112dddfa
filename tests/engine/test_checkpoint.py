"""A checkpoint is whole or does not exist; a damaged one is set aside and the one before it taken."""

import os
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


@pytest.mark.parametrize("bit", range(8))
def test_a_manifest_with_any_bit_flipped_is_refused(tmp_path, bit: int):
    path = save(tmp_path, state(), {"step": 200}).path
    file = path / "MANIFEST.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.verify(path)


def test_a_checkpoint_that_breaks_twice_is_set_aside_twice(tmp_path):
    save(tmp_path, state(), {"step": 1})
    for _ in range(2):
        (save(tmp_path, state(), {"step": 2}).path / "weights.safetensors").unlink()
        assert newest(tmp_path, lambda text: None).step == 1
    assert [path.name for path in steps(tmp_path)] == ["000000000001"]
    assert len(list(tmp_path.glob("damaged-*"))) == 2


def test_a_checkpoint_of_a_newer_version_is_left_alone_and_stops_the_run(tmp_path, monkeypatch):
    save(tmp_path, state(), {"step": 1})
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    save(tmp_path, state(), {"step": 2})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format version 99"):
        newest(tmp_path)
    assert len(steps(tmp_path)) == 2


def test_the_only_one_is_never_deleted(tmp_path):
    save(tmp_path, state(), {"step": 4})
    prune(tmp_path, CheckpointConfig(keep_last=1), best=3)
    assert [int(path.name) for path in steps(tmp_path)] == [4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_every_bit_of_every_type_survives(tmp_path, dtype: torch.dtype):
    bits = torch.randint(0, 256, (64,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensor = bits.view(8, 8).T > 99 if dtype == torch.bool else bits.view(dtype).view(2, -1).T
    save(tmp_path, TrainState({"w": tensor}), {"step": 1})
    back = read(newest(tmp_path)).weights["w"]
    assert back.dtype == dtype
    assert torch.equal(back.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8))
