"""Freed memory that is kept: the next step finds it, and the system need not give out pages again."""

import os
import subprocess
import sys

import pytest

STEPS = """
import ctypes
import resource
import sys
import torch
from marey.engine import heap

torch.set_num_threads(1)
for threshold in (-1, -3):  # what glibc begins with; it raises them by what is freed, and by where that lies
    assert ctypes.CDLL(None).mallopt(threshold, 128 << 10)
if sys.argv[1] == "keep":
    assert heap.keep_freed()

def step():
    activations = [torch.ones(2**20, 6) for _ in range(8)]  # 24 MiB each: all are freed with the step
    return sum(float(one[-1, 0]) for one in activations)

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES_OF_A_STEP = 8 * 24 * 2**20 // 4096


def faults_of_five_steps(how: str) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_memory_that_a_step_frees_is_there_for_the_next():
    assert faults_of_five_steps("leave") >= 5 * PAGES_OF_A_STEP
    assert faults_of_five_steps("keep") < PAGES_OF_A_STEP / 2  # a block may still find a better place once
