"""Arrays in memory and in files hold the same."""

import pickle
from dataclasses import replace

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
    program = """
import resource, numpy as np
from marey.clips import mapped
own = lambda: int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) // 1024
before = own()
array = mapped.filled(2**25, np.int64, lambda part: np.arange(part.start, part.stop))
print(own() - before, int(array[-1]))
"""
    grown, last = _apart(program)
    assert last == 2**25 - 1
    assert grown < 64  # MiB; the array has 256


@pytest.mark.slow
def test_a_table_of_three_times_the_rows_takes_no_more_memory_to_train_on(table, tmp_path):
    program = """
import sys, numpy as np
from marey.clips.table import open_table
from marey.experiment import Training, assemble
from marey.recipes.supervised import SupervisedConfig
own = lambda: int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) // 1024
training = Training(
    backbone={"name": "videomae_v2_tiny_16x224", "frames": 8, "crop": 32}, batch=8, split="train",
    recipe=SupervisedConfig(mix={"mixup": 0.0, "cutmix": 0.0}), balance={"evenness": 1}, clips={"stride": 1},
)
open_table(sys.argv[2])
before = own()
table = open_table(sys.argv[1])
order = assemble.feed_order(assemble.resolve(training, table), table, 1)
for step in range(40):
    order.table.read([one.row for one in order.plan.slice(step * 977, 8)])
print(own() - before, len(order.table))
"""
    [row] = table.read([0])
    few, many = _table(tmp_path / "few", row, 40), _table(tmp_path / "many", row, 120)
    (small, _), (grown, rows) = _apart(program, few, few), _apart(program, many, few)
    assert rows == 120 * 500

    assert grown < small + 24  # MiB


def _table(place, row, files):
    """Rows like ``row``, 500 a file to train on and as many others; all files are one."""
    import os

    from marey.clips.parts import PartWriter
    from marey.clips.row import to_arrow
    from marey.clips.table import describe, publish

    rows = [
        replace(row, label=number % 3, label_name=str(number % 3), split=("train", None)[number % 2])
        for number in range(1000)
    ]
    writer = PartWriter(place / "data/0.parquet")
    writer.add(to_arrow(rows))
    writer.commit()
    for number in range(1, files):
        os.link(place / "data/0.parquet", place / f"data/{number}.parquet")
    one = describe(place, "data/0.parquet")
    parts = [replace(one, path=f"data/{number}.parquet") for number in range(files)]
    publish(place, parts, {"storage": "h264", "short_side": 64})
    return place


def _apart(program, *arguments):
    """The numbers that a program prints, run in a process of its own."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    import marey

    environment = os.environ | {"PYTHONPATH": str(Path(marey.__file__).parents[1])}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return tuple(map(int, ended.stdout.split()))
