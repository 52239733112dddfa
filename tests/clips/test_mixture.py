"""Several tables as one."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from marey.clips.datasets import find_sources
from marey.clips.mixture import JoinedTable, join, open_tables
from marey.clips.prepare import prepare_all
from marey.clips.storage import ClipStorage
from marey.clips.table import open_table
from marey.errors import ClipError, ConfigError
from marey.experiment import Training, assemble
from videos import moving_square, write_video


@pytest.fixture(scope="module")
def folder_tables(tmp_path_factory):
    """A table of a folder of classes by name; ``make(place, classes, per_class)``."""
    root = tmp_path_factory.mktemp("mixture")

    def make(place: str, classes: list[str], count: int = 2) -> Path:
        for name in classes:
            for number in range(count):
                path = root / f"{place}-videos" / name / f"{number}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, moving_square(12, 40, 48, seed=number))
        table = root / place
        prepare_all(find_sources(root / f"{place}-videos"), ClipStorage(short_side=32), table, isolate=False)
        return table

    return make


@pytest.fixture(scope="module")
def pair(folder_tables) -> JoinedTable:
    return open_tables([folder_tables("one/set", ["run", "walk"], 3), folder_tables("two/other", ["run", "walk"], 1)])


def test_rows_are_those_of_the_tables_one_after_the_other(pair):
    parts = [open_table(part.root) for part in (pair.manifest.files[0], pair.manifest.files[-1])]
    assert [len(part) for part in parts] == [6, 2]
    assert pair.sections(np.arange(8)).tolist() == [0] * 6 + [1] * 2
    found = pair.read(range(8))
    own = [row for part in parts for row in part.read(range(len(part)))]
    assert [row.payload for row in found] == [row.payload for row in own]
    names = ["set"] * 6 + ["other"] * 2
    assert [row.source_id for row in found] == [f"{a}/{b.source_id}" for a, b in zip(names, own, strict=True)]
    assert pair.column("source_id") == [row.source_id for row in found]
    assert pair.class_names() == ["run", "walk"]
    assert pair.fingerprint not in {part.fingerprint for part in parts}


def test_a_selection_of_rows_knows_their_tables_also_in_another_process(pair):
    chosen = pickle.loads(pickle.dumps(pair.select([7, 0, 6])))
    assert chosen.sections(np.arange(3)).tolist() == [1, 0, 1]
    assert [row.source_id.split("/")[0] for row in chosen.read([0, 1, 2])] == ["other", "set", "other"]
    whole, rows = chosen.located([0, 1])
    assert [row.source_id for row in whole.read(rows)] == chosen.column("source_id")[:2]


def test_tables_of_one_name_are_told_apart_by_their_paths(folder_tables):
    paths = [folder_tables("a/same", ["run"]), folder_tables("b/same", ["run"])]
    assert open_tables(paths).column("source_id")[0].startswith(f"{paths[0]}/")


def test_tables_whose_classes_differ_pretrain_together_and_are_refused_for_labels(folder_tables):
    first = folder_tables("three/first", ["run", "walk"])
    joined = open_tables([first, folder_tables("three/second", ["jump", "run"])])
    assert len(joined.read(range(len(joined)))) == 8
    with pytest.raises(ClipError, match="class 0 is 'run' in first and 'jump' in second; prepare them with one label"):
        joined.class_names()
    with pytest.raises(ClipError, match="first has 2 classes and third 3"):
        open_tables([first, folder_tables("three/third", ["run", "walk", "wave"])]).class_names()


def test_a_run_takes_its_share_of_each_table(pair):
    training = Training(
        backbone={"name": "videomae_v2_tiny_pretrain", "frames": 8, "crop": 32}, batch=4, clips={"stride": 1},
        tables=["/one", "/two"], shares=[1, 1],
    )  # fmt: skip
    plan = assemble.feed_order(training, pair, 1).plan
    sections = pair.sections(np.arange(8))
    assert Counter(sections[one.row] for one in plan.samples(0, 8)) == {0: 4, 1: 4}
    assert {one.row for one in plan.samples(0, 24)} == set(range(8))
    by_rows = assemble.feed_order(training.replace(shares=[]), pair, 1).plan
    assert sorted(one.row for one in by_rows.samples(0, 8)) == list(range(8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"tables": ["/a", "/b"], "shares": [1]}, "one number above 0 is needed for each of the 2 tables"),
        ({"tables": ["/a", "/b"], "shares": [1, 0]}, "one number above 0 is needed"),
        ({"table": "/a", "tables": ["/b", "/c"]}, "more than one is given"),
        ({"tables": ["/a", "b"]}, "'b' is relative"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        Training(backbone={"name": "videomae_v2_tiny_pretrain"}, **words)


def test_frames_too_small_in_one_of_them_are_told(pair, table):
    training = Training(backbone={"name": "videomae_v2_tiny_pretrain", "frames": 8, "crop": 48}, batch=4)
    mixed = join([table, open_table(pair.manifest.files[0].root)])
    with pytest.raises(ClipError, match=r"clip table three \+ set: frames are stored with a short side of 32"):
        assemble.feed_order(training, mixed, 1)
