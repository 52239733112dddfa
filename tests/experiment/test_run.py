"""A run's folder: names, who holds it, and what may change when it is taken up again."""

import pytest
import yaml

from marey.errors import ConfigError, RunError
from marey.experiment import Training
from marey.experiment.revision import revision
from marey.experiment.run import fresh_name, open_run


@pytest.fixture
def training(tmp_path) -> Training:
    return Training(name="mine", results=tmp_path, backbone="videomae_v2_tiny_pretrain", batch=8)


def test_a_run_is_held_by_one_at_a_time_and_the_holder_is_named(training):
    held = open_run(training, "print")
    with pytest.raises(RunError, match="held by process"):
        open_run(training, "print")
    held.close()
    assert open_run(training, "print").resumed


@pytest.mark.parametrize(
    "change", [{"epochs": 900}, {"engine": {"strategy": "deepspeed", "zero": 3}}, {"log": {"every": 3}}]
)
def test_resumable_settings_may_differ(training, change):
    open_run(training, "print").close()
    open_run(training.replace(**change), "print").close()


def test_the_clip_table_must_be_the_same(training):
    open_run(training, "print").close()
    with pytest.raises(RunError, match="table_fingerprint"):
        open_run(training, "another")


def test_a_refused_change_leaves_the_settings_as_they_were(training):
    open_run(training, "print").close()
    with pytest.raises(RunError, match="seed: 0 then, 1 now"):
        open_run(training.replace(seed=1), "print")
    open_run(training, "print").close()


@pytest.mark.parametrize("seed", [0, 1])
def test_settings_that_came_after_a_run_had_their_defaults_then(training, seed):
    """0 is the default."""
    open_run(training, "print").close()
    path = training.results / "runs" / "mine" / "settings.yaml"
    record = yaml.safe_load(path.read_text())
    del record["settings"]["seed"], record["settings"]["engine"]["precision"]
    path.write_text(yaml.safe_dump(record))
    if seed:
        with pytest.raises(RunError, match="seed: 0 then, 1 now"):
            open_run(training.replace(seed=seed), "print")
    else:
        assert open_run(training, "print").resumed


def test_fresh_names_differ_and_are_valid(training):
    names = {fresh_name("job") for _ in range(20)}
    assert len(names) == 20
    assert training.replace(name=names.pop()).name


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden"])
def test_a_name_that_is_no_name_of_a_folder_is_refused(training, name):
    with pytest.raises(ConfigError, match="name"):
        training.replace(name=name)


def test_the_revision_always_has_a_hash_of_the_sources():
    assert len(revision()["sources_sha256"]) == 64


def test_a_share_is_cut_into_equal_passes(training):
    assert training.replace(batch=24, engine={"micro_batch": 10}).micro_batch(world=2) == 6
    assert training.replace(batch=22, engine={"micro_batch": 10}).micro_batch(world=2) == 1
