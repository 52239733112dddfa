"""Spoilt checkpoints are never loaded: the newest that is whole is, and those that are not are named, once."""

import shutil
from pathlib import Path
from random import Random

import pytest
import torch

from faults.checkpoint_mutations import spoil
from faults.saver import filled, save
from marey.engine.checkpoint import newest, read, steps

STEPS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    for step in STEPS:
        save(folder, step, None, keep=len(STEPS))
    return folder


def check(whole: Path, folder: Path, seed: int) -> None:
    shutil.copytree(whole, folder)
    ways, expected = spoil(folder, Random(seed))
    told: list[str] = []
    found = newest(folder, told.append)
    assert (found.step if found else None) == expected, (seed, ways)
    if found:
        state, right = read(found), filled(found.step)
        for mine, theirs in ((state.weights, right.weights), (state.ema, right.ema), (state.moments, right.moments)):
            assert str(mine.keys()) == str(theirs.keys()), (seed, ways)
        assert all(torch.equal(state.weights[name], right.weights[name]) for name in right.weights), (seed, ways)
        assert all(torch.equal(state.ema[name], right.ema[name]) for name in right.ema), (seed, ways)
        assert torch.equal(state.moments["a"]["exp_avg"], right.moments["a"]["exp_avg"]), (seed, ways)
        assert (state.optimizer_steps, state.ema_updates) == (found.step, found.step), (seed, ways)
    aside = {path.name for path in folder.glob("damaged-*")}
    assert len(told) == len(aside), (seed, ways, told)
    assert all(any(name in text for text in told) for name in aside), (seed, ways, told)
    later = [path for path in steps(folder) if int(path.name) > (expected or 0)]
    assert not later, (seed, ways)
    again = newest(folder, told.append)
    assert (again.step if again else None) == expected, (seed, ways)
    assert len(told) == len(aside), (seed, ways)
    shutil.rmtree(folder)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_the_newest_whole_checkpoint_is_found_whatever_was_spoilt(whole, tmp_path, first):
    for seed in range(first, first + 20):
        check(whole, tmp_path / "checkpoints", seed)


@pytest.mark.soak
def test_five_hundred_spoilt_folders(whole, tmp_path):
    for seed in range(1000, 1500):
        check(whole, tmp_path / "checkpoints", seed)
