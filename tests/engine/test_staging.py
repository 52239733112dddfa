"""Memory that a state is copied into: there before the first save, and made without threads of its own."""

import os
import subprocess
import sys

import torch

from marey.engine.staging import Staging

BESIDE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
from marey.engine.optim import OptimConfig
from marey.engine.strategy import EngineConfig, TorchStrategy
from marey.backbones import zoo
from marey.recipes.masked import MaskedConfig

backbone = zoo.configure("videomae_v2_tiny_pretrain", frames=4, crop=32, depth=1)
strategy = TorchStrategy(MaskedConfig().build(backbone), OptimConfig(ema=0.9), EngineConfig(), torch.device("cpu"))
torch.ones(2**22).mul_(2)  # this thread's own
threads = lambda: len(list(Path("/proc/self/task").iterdir()))
with ThreadPoolExecutor(1) as beside:
    beside.submit(len, "").result()
    before = threads()
    work = strategy.reserve if sys.argv[1] == "reserve" else strategy.state
    beside.submit(work).result()
    print(threads() - before)
"""


def started(what: str) -> int:
    """Threads that are there after this was done in a thread beside, and were not before."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, what], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_memory_is_reserved_beside_training_without_more_threads():
    assert started("state") == 1, "a copy by PyTorch starts them, or this shows nothing"
    assert started("reserve") == 0


def test_a_copy_goes_into_the_memory_that_was_held():
    staging = Staging()
    for tensor in (
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor(3),
        torch.ones(0),
        torch.ones(5, dtype=torch.bfloat16),
    ):
        held = staging.hold("one", tensor)
        copy = staging.copy("one", tensor)
        assert copy is held
        assert torch.equal(copy, tensor)
        assert copy.is_contiguous()
