"""``marey checkpoint``: shown, verified and exported as a user sees it."""

import pytest
import torch
from typer.testing import CliRunner

from marey.cli import app
from marey.engine import checkpoint
from marey.errors import CheckpointError
from marey.experiment.run import open_run
from marey.inference.opened import open_weights
from tiny_training import run, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def results(table, tmp_path_factory):
    """A run of five steps, saved after the fourth and the fifth."""
    place = tmp_path_factory.mktemp("results")
    training = tiny().replace(results=place, name="walking", table=table.path)
    opened = open_run(training, table.fingerprint)
    run(training, table, opened.directory, steps=5)
    opened.close()
    return place


def marey(*words: str):
    return CliRunner().invoke(app, ["checkpoint", *words])


def test_a_runs_checkpoints_are_listed_with_what_they_are_of(results, table):
    shown = marey("show", "walking", f"results={results}").output
    assert [line.split()[0] for line in shown.splitlines()[:3]] == ["step", "4", "5"]
    assert shown.count("whole") == 2
    assert "loss" in shown.splitlines()[0]
    assert f"fingerprint {table.fingerprint}" in shown
    assert "backbone    videomae_v2_tiny_pretrain" in shown


def test_damage_is_found_and_named_and_nothing_is_moved(results, tmp_path):
    import shutil

    copy = tmp_path / "runs/walking"
    shutil.copytree(results / "runs/walking", copy)
    assert marey("verify", "walking", f"results={tmp_path}").exit_code == 0
    victim = copy / "checkpoints/000000000004/weights.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(bytes(content))
    found = marey("verify", "walking", f"results={tmp_path}")
    assert found.exit_code == 1
    assert isinstance(found.exception, CheckpointError)
    assert str(victim.parent) in str(found.exception)
    assert "000000000005: whole" in found.output
    assert f"{victim}: content differs from its sha256" in found.output
    assert "content differs" in " ".join(marey("show", str(copy)).output.split())
    assert victim.exists()


def test_an_exported_file_says_which_model_it_is_of(results, tmp_path):
    file = tmp_path / "walking.safetensors"
    told = marey("export", "walking", str(file), "weights=last", f"results={results}").output
    assert f"init={file}" in told
    opened = open_weights(str(file), results)
    saved = checkpoint.newest(results / "runs/walking/checkpoints")
    assert opened.step == saved.step == 5
    assert opened.settings["clips"]["stride"] == 1
    model = opened.model()  # the backbone is known
    expected = checkpoint.weights(saved)
    assert all(torch.equal(tensor, expected[f"model.{name}"]) for name, tensor in model.state_dict().items())


def test_mistakes_are_told(results, tmp_path):
    for words, message in (
        (["export", "walking", "w.bin", f"results={results}"], "ends in .safetensors"),
        (["show", "wlaking", f"results={results}"], "did you mean walking"),
        (["export", "walking", "w.safetensors", "weights=bset"], "weights"),
    ):
        assert message in str(marey(*words).exception)
