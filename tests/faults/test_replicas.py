"""A bit that flips in one worker's weights stops the run, names the worker, and is not saved."""

import json
from pathlib import Path

import pytest
import torch

import worker_group
from marey.engine import checkpoint
from marey.engine.replicas import checksum

FLIPPED = "model.decoder.blocks.0.mlp.fc1.weight"  # as in replicas.py


def run(world, table, folder: Path) -> dict[str, list[str]]:
    worker_group.run(Path(__file__).with_name("replicas.py"), world, folder, table.path)
    return json.loads((folder / "told.json").read_text())


def saved(folder: Path) -> list[int]:
    return [int(path.name) for path in checkpoint.steps(folder / "checkpoints")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_two_workers_that_differ_both_are_named(table, tmp_path):
    told = run(2, table, tmp_path)
    for kind in ("torch1", "deepspeed2"):
        one, other = told[f"{kind} flipped"]
        assert one == other
        assert "step 4: the weights of ranks 0 and 1 differ, and no majority says which are wrong" in one
        assert f"the first parameter that differs is {FLIPPED}" in one
        assert saved(tmp_path / f"{kind} flipped") == [2]
    for kind in ("torch1", "deepspeed2", "deepspeed3"):
        assert told[f"{kind} sound"] == ["", ""]
        assert saved(tmp_path / f"{kind} sound")[-1] == 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_three_workers_the_one_that_differs_is_named(table, tmp_path):
    told = run(3, table, tmp_path)
    assert len(set(told["torch1 flipped"])) == 1
    assert "step 4: the weights of rank 2 differ from those of the 2 others that agree" in told["torch1 flipped"][0]
    assert f"the first parameter that differs is {FLIPPED}" in told["torch1 flipped"][0]
    assert saved(tmp_path / "torch1 flipped") == [2]
    assert told["torch1 sound"] == [""] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_every_bit_counts_and_so_does_its_place(dtype):
    values = torch.arange(257 * 3).reshape(257, 3) % 2 == 0
    tensor = values.to(dtype)
    flat = tensor.view(-1).view(torch.uint8)
    sums = {int(checksum(tensor))}
    for place in range(0, len(flat), 37):
        for bit in range(8) if dtype != torch.bool else [0]:
            flat[place] ^= 1 << bit
            sums.add(int(checksum(tensor)))
            flat[place] ^= 1 << bit
    assert len(sums) == 1 + len(range(0, len(flat), 37)) * (8 if dtype != torch.bool else 1)
    assert int(checksum(tensor)) != int(checksum(tensor.roll(1, 0)))
    assert int(checksum(tensor)) == int(checksum(tensor.clone()))


def test_a_tensor_of_many_pieces_is_summed_with_the_place_of_each(monkeypatch):
    monkeypatch.setattr("marey.engine.replicas.CHUNK", 64)
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    swapped = torch.cat([tensor[64:128], tensor[:64], tensor[128:]])
    assert int(checksum(tensor)) != int(checksum(swapped))
    assert int(checksum(torch.zeros(0))) == 0
    assert int(checksum(torch.tensor(1.0))) != 0
