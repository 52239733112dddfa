"""What a user types to a job and reads back: help, mistakes, exit codes. No cluster is touched."""

from pathlib import Path

import pytest

from marey.config import override
from marey.experiment import Description, Training
from marey.launch import describe, train
from submitting import SMALL, mlflow_runs, run_script

JOB = "jobs/pretrain_videomae.py"


def test_help_lists_settings_as_they_are_typed_with_type_and_meaning():
    shown = run_script(JOB, "--help")
    assert shown.returncode == 0
    for line in (
        "recipe.mask_ratio=0.9  (float",
        "engine.zero=1  (0 | 1 | 2 | 3)",
        "    Share of the tokens that are hidden",
    ):
        assert f"\n{line}" in shown.stdout


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("optim.base_lrr=1", "did you mean 'optim.base_lr'?"),
        ("engine.stratgey=torch", "did you mean 'engine.strategy'?"),
        ("engine.zero=7", "engine.zero"),
        ("backbone=videomae_v2_bose_pretrain", "videomae_v2_base_pretrain"),
        ("backbone.dept=2", "did you mean 'backbone.depth'?"),
        ("table=relative/path", 'write "$PWD/relative/path"'),
        ("batch=7 fleet.workers=2", "not a multiple"),
        ("engine.strategy=torch engine.zero=3", "needs engine.strategy=deepspeed"),
        ("just_a_word", "write path=value"),
        ("@missing.yaml", "missing.yaml"),
        ("fleet.workers=0", "prepare_clips.py"),
    ],
)
def test_a_wrong_setting_ends_with_code_2_and_says_what_to_do(word: str, told: str, tmp_path: Path):
    ended = run_script(JOB, f"results={tmp_path}", *word.split())
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_training_a_classifier_by_masking_is_refused(table, tmp_path: Path):
    words = [*SMALL[1:4], "backbone=videomae_v2_tiny_16x224", "fleet.workers=0", f"table={table.path}"]
    ended = run_script(JOB, f"results={tmp_path}", *words)
    assert ended.returncode == 2
    assert "cannot be pre-trained by masking" in ended.stderr


def test_a_crop_larger_than_the_table_names_the_command_that_prepares_a_fitting_one(table, tmp_path: Path):
    ended = run_script(JOB, f"results={tmp_path}", f"table={table.path}", "fleet.workers=0", "backbone.crop=512")
    assert ended.returncode == 1
    assert "clips.short_side=512" in ended.stderr


@pytest.mark.slow
def test_a_finished_run_does_nothing_when_run_again_and_goes_on_with_more_epochs(table, tmp_path: Path):
    words = [JOB, *SMALL, f"table={table.path}", f"results={tmp_path}", "fleet.workers=0", "name=again"]
    assert run_script(*words, "epochs=4").returncode == 0
    again = run_script(*words, "epochs=4")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    longer = run_script(*words, "epochs=6")
    assert longer.returncode == 0
    assert "resumed from the checkpoint of step" in longer.stdout


@pytest.mark.slow
def test_a_run_taken_up_with_other_settings_is_refused_and_lists_them(table, tmp_path: Path):
    words = [JOB, *SMALL, f"table={table.path}", f"results={tmp_path}", "fleet.workers=0", "name=same", "epochs=2"]
    assert run_script(*words).returncode == 0
    other = run_script(*words, "recipe.mask_ratio=0.8", "optim.weight_decay=0.1")
    assert other.returncode == 2
    assert "recipe.mask_ratio: 0.75 then, 0.8 now" in other.stderr
    assert "optim.weight_decay: 0.05 then, 0.1 now" in other.stderr


@pytest.mark.slow
def test_videos_alone_are_prepared_first(videos: Path, tmp_path: Path):
    ended = run_script(JOB, *SMALL, f"videos={videos}", f"results={tmp_path}", "fleet.workers=0", "epochs=1")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "tables" / videos.name / "manifest.json").exists()


@pytest.mark.slow
def test_a_table_is_described_and_its_card_is_in_mlflow_with_the_data_set(labelled, tmp_path: Path):
    words = ["jobs/describe_clips.py", f"table={labelled.path}", f"results={tmp_path}", f"output={tmp_path}/card.html"]
    ended = run_script(*words, "workers=0")
    assert ended.returncode == 0, ended.stderr
    [run] = mlflow_runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["rows"] == 48
    [used] = run.inputs.dataset_inputs
    assert used.dataset.name == labelled.path.name
    assert labelled.fingerprint.startswith(used.dataset.digest)
    assert next(tmp_path.rglob("artifacts/card.html")).read_text() == (tmp_path / "card.html").read_text()


@pytest.mark.slow
def test_a_table_at_a_uri_is_prepared_trained_on_and_described(store, videos: Path, tmp_path: Path):
    place = f"table={store.uri('jobs/three')}"
    prepared = run_script("jobs/prepare_clips.py", f"videos={videos}", place, "clips.max_seconds=1", "workers=0")
    assert prepared.returncode == 0, prepared.stderr
    assert f"table    {place[6:]}" in prepared.stdout
    training = Training(backbone={"name": "videomae_v2_tiny_pretrain"})
    train.run(override(training, [*SMALL, place, f"results={tmp_path}", "fleet.workers=0", "epochs=1"]), [], "own.py")
    describe.run(override(Description(), [place, f"results={tmp_path}", "workers=0"]))
    [card] = tmp_path.glob("cards/three-*/card.html")
    assert place[6:].replace("&", "&amp;") in card.read_text()
    runs = {run.data.tags["job"]: run for run in mlflow_runs(tmp_path)}
    assert runs["own"].data.params["table"] == place[6:]
    assert {run.inputs.dataset_inputs[0].dataset.name for run in runs.values()} == {"three"}


@pytest.mark.slow
def test_a_place_that_cannot_be_reached_ends_without_a_trace(store, videos: Path):
    words = [f"videos={videos}", f"table={store.uri('three', bucket='nowhere')}", "workers=0"]
    ended = run_script("jobs/prepare_clips.py", *words)
    assert ended.returncode == 1
    assert "there is no bucket 'nowhere'" in ended.stderr
    assert "Traceback" not in ended.stderr
