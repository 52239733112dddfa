"""Stale locks of compiled extensions are named; others are let be."""

import os
import time

import pytest
import torch

from marey.engine import extension_locks
from marey.engine.extension_locks import refuse_stale_locks
from marey.errors import TrainingError


@pytest.mark.parametrize("place", ["cpu_adam", "py311_cpu/cpu_adam"])
def test_a_lock_of_a_killed_build_is_named_and_a_fresh_one_is_let_be(tmp_path, place):
    refuse_stale_locks(tmp_path / "not there")
    lock = tmp_path / place / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    refuse_stale_locks(tmp_path)
    long_ago = time.time() - 2 * extension_locks.STALE_S
    os.utime(lock, (long_ago, long_ago))
    with pytest.raises(TrainingError, match=f"remove: rm {lock}"):
        refuse_stale_locks(tmp_path)


def test_deepspeed_does_not_start_beside_one(tmp_path, monkeypatch):
    from marey.engine.optim import OptimConfig
    from marey.engine.strategy import EngineConfig
    from marey.engine.zero import DeepSpeedStrategy

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (0, 0))
    with pytest.raises(TrainingError, match=str(lock)):
        DeepSpeedStrategy(torch.nn.Linear(1, 1), OptimConfig(), EngineConfig(), torch.device("cpu"))
