"""Arrays in memory and in files hold the same."""

import pickle

import numpy as np
import pytest

from marey.clips import mapped


@pytest.fixture(params=["in memory", "in files"])
def anywhere(request, monkeypatch):
    if request.param == "in files":
        monkeypatch.setattr(mapped, "IN_MEMORY", 0)
    monkeypatch.setattr(mapped, "SLICE", 7)


@pytest.mark.usefixtures("anywhere")
def test_arrays_hold_what_they_are_given():
    chunks = [np.arange(3), np.arange(3, 3), np.arange(3, 40)]
    found = mapped.gather(iter(chunks), np.int32)
    assert found.dtype == np.int32
    assert found.tolist() == list(range(40))
    assert pickle.loads(pickle.dumps(found)).tolist() == found.tolist()
    squares = mapped.filled(20, np.int64, lambda part: np.arange(part.start, part.stop) ** 2)
    assert squares.tolist() == [number**2 for number in range(20)]
    assert mapped.gather([], np.int64).tolist() == []


@pytest.mark.usefixtures("anywhere")
def test_quotas_are_the_same_from_either():
    from marey.clips.quotas import BalanceConfig, quotas

    labels = np.random.default_rng(0).integers(0, 5, 200)
    made = quotas(labels, list("abcde"), BalanceConfig(evenness=1))
    assert made.members.tolist() == np.argsort(labels, kind="stable").tolist()
    assert made.counts.tolist() == [40] * 5


def test_long_arrays_take_no_memory_of_their_own(tmp_path):
    import subprocess
    import sys

    program = """
import resource, numpy as np
from marey.clips import mapped
own = lambda: int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) // 1024
before = own()
array = mapped.filled(2**25, np.int64, lambda part: np.arange(part.start, part.stop))
print(own() - before, int(array[-1]))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=_path())
    grown, last = map(int, ended.stdout.split())
    assert last == 2**25 - 1
    assert grown < 64  # MiB; the array has 256


def _path():
    import os
    from pathlib import Path

    import marey

    return os.environ | {"PYTHONPATH": str(Path(marey.__file__).parents[1])}
