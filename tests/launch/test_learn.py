"""The chain of `make learn`: splits by subject, as many steps on a small set, settings that its jobs take."""

import csv
import runpy
from pathlib import Path

import pytest

from marey.config import override, read_yaml
from marey.launch import learn
from submitting import ROOT


def test_the_last_subject_tests_and_the_one_before_validates(tmp_path: Path):
    data = tmp_path / "set"
    data.mkdir()
    rows = [("path", "class", "subject"), *((f"{n}.mp4", "wave", n) for n in (1, 2, 9, 10))]
    with (data / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    lines = learn._with_splits(data, tmp_path).read_text().splitlines()
    assert lines[1:] == ["1.mp4,wave,train", "2.mp4,wave,train", "9.mp4,wave,validation", "10.mp4,wave,test"]


def test_a_set_that_names_splits_is_taken_as_it_is(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("path,class,split,subject\na.mp4,wave,train,1\n")
    assert learn._with_splits(tmp_path, tmp_path) == tmp_path


def test_a_smaller_set_is_trained_for_as_many_steps(labelled):
    words = dict(word.split("=") for word in learn._enough_epochs(labelled.path, "learn_resnet3d"))
    whole = read_yaml(ROOT / "jobs/learn_resnet3d.yaml")["epochs"] * learn._TRAINED
    assert float(words["epochs"]) * len(labelled.split("train")) == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize(("settings", "pretraining"), [(one.settings, one.pretraining) for one in learn.MODELS])
def test_the_settings_are_ones_that_the_jobs_take(settings, pretraining, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "jobs")
    for job, name in [("finetune", settings), *([pretraining] if pretraining else [])]:
        training = runpy.run_path(str(ROOT / "jobs" / f"{job}.py"))["training"]
        override(training, [f"@{ROOT / 'jobs' / name}.yaml"])
