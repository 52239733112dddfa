"""Copies of checkpoints in an object store: whole or not there, by one writer, and enough to go on from."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from obstore.exceptions import GenericError

from marey.engine import checkpoint
from marey.engine.checkpoint import MANIFEST
from marey.engine.checkpoint_config import CheckpointConfig
from marey.engine.events import CheckpointWritten
from marey.engine.object_store import Copies
from marey.engine.train_state import TrainState
from marey.errors import CheckpointError
from tiny_training import run, tiny


def saved(folder: Path, step: int, value: float = 0.0, best: int | None = None) -> Path:
    """A checkpoint whose weights say of which step it is."""
    state = TrainState({"head.weight": torch.full((3, 5), step + value)}, {}, step)
    return checkpoint.save(folder / "checkpoints", state, {"step": step, "best_step": best}).path


def weight(path: Path) -> float:
    return float(checkpoint.read(checkpoint.verify(path)).weights["head.weight"][0, 0])


def writer(uri: str, step: int | None = None) -> Copies:
    copies = Copies(uri, "run")
    copies.take_over(step)
    return copies


@pytest.fixture(params=["s3", "file"])
def uri(request, store, tmp_path) -> str:
    """A place that no other test has."""
    if request.param == "file":
        return f"file://{tmp_path}/copies"
    return store.uri(f"copies/{tmp_path.name}")


def test_a_copy_is_fetched_as_it_was_written(uri, tmp_path):
    copies = writer(uri)
    for step in (10, 20):
        copies.put(saved(tmp_path, step))
    copies.put(tmp_path / "checkpoints/000000000020")  # once more, as after an answer that was lost
    assert copies.steps() == [10, 20]
    elsewhere = tmp_path / "elsewhere"
    assert Copies(uri, "run").fetch(elsewhere).step == 20
    assert weight(elsewhere / "000000000020") == 20
    assert Copies(uri, "run").fetch(elsewhere) is None  # nothing newer
    assert Copies(uri, "other").fetch(elsewhere) is None
    assert [path.name for path in elsewhere.iterdir()] == ["000000000020"]


def test_the_best_comes_with_the_newest(uri, tmp_path):
    copies = writer(uri)
    for step in (10, 20, 30):
        copies.put(saved(tmp_path, step, best=10))
    assert copies.fetch(tmp_path / "elsewhere").step == 30
    assert [int(path.name) for path in checkpoint.steps(tmp_path / "elsewhere")] == [10, 30]
    copies.prune({20, 30})
    assert copies.fetch(tmp_path / "without").step == 30
    assert [int(path.name) for path in checkpoint.steps(tmp_path / "without")] == [30]


def test_a_folder_of_copies_keeps_no_empty_folders(tmp_path):
    copies = writer(f"file://{tmp_path}/copies")
    for step in (10, 20):
        copies.put(saved(tmp_path, step))
    copies.prune({20})
    assert sorted(path.name for path in (tmp_path / "copies/run").iterdir()) == ["000000000020-000001", "writers"]


def test_the_manifest_comes_last_and_only_once(store, tmp_path):
    copies = writer(store.uri("copies/last"))
    path = saved(tmp_path, 10)
    with store.requests() as diary:
        copies.put(path)
    puts = [one.path.rpartition("/")[2] for one in diary if one.method == "PUT"]
    assert sorted(puts) == sorted(file.name for file in path.iterdir())
    assert puts[-1] == MANIFEST
    shutil.rmtree(path)
    with pytest.raises(CheckpointError, match="another process has written it"):
        copies.put(saved(tmp_path, 10, value=0.5))


class Failing:
    """A store of which one request, by its number, does not succeed."""

    def __init__(self, store, number: int) -> None:
        self.store, self.left = store, number

    def __getattr__(self, name: str):
        def ask(*arguments, **options):
            self.left -= 1
            if self.left == 0:
                raise GenericError("503 SlowDown")
            return getattr(self.store, name)(*arguments, **options)

        return ask


def refusal(copies: Copies, path: Path) -> str:
    """What the store says to a copy; empty where it takes it."""
    try:
        copies.put(path)
    except OSError as error:
        return str(error)
    return ""


def test_a_copy_that_fails_at_any_request_is_not_there_and_comes_through_later(uri, tmp_path):
    before, path = saved(tmp_path, 10), saved(tmp_path, 20)
    number = 0
    while True:
        number += 1
        copies = writer(f"{uri.partition('?')[0]}/{number}{''.join(uri.partition('?')[1:])}")
        copies.put(before)
        whole, copies.store = copies.store, Failing(copies.store, number)
        if not (problem := refusal(copies, path)):
            break
        assert re.search(r"copies.*: cannot be written: 503 SlowDown", problem)
        copies.store = whole
        assert copies.steps() == [10]
        copies.put(path)
        assert copies.steps() == [10, 20]
    assert number > 5


def test_a_writer_that_was_cut_off_cannot_commit(uri, tmp_path, monkeypatch):
    old = writer(uri)
    old.put(saved(tmp_path, 10))
    new = writer(uri, 10)
    with pytest.raises(CheckpointError, match=r"process \d+ on .* has taken this run over meanwhile"):
        old.put(saved(tmp_path, 20))
    monkeypatch.setattr(old, "_check_writer", lambda: None)  # it had looked just before it was cut off
    old.put(tmp_path / "checkpoints/000000000020")
    assert new.steps() == [10]
    shutil.rmtree(tmp_path / "checkpoints/000000000020")
    new.put(saved(tmp_path, 20, value=0.5))
    assert new.steps() == [10, 20]
    assert Copies(uri, "run").fetch(tmp_path / "elsewhere").step == 20
    assert weight(tmp_path / "elsewhere/000000000020") == 20.5


def test_two_that_take_over_at_once_get_epochs_of_their_own(uri):
    one, other = Copies(uri, "run"), Copies(uri, "run")
    listed = one._listed
    one._listed = lambda: (one.__dict__.pop("_listed"), listed(), other.take_over(None))[1]  # between look and claim
    one.take_over(None)
    assert (other.epoch, one.epoch) == (1, 2)


def test_pruning_leaves_what_is_kept_and_what_a_later_writer_has(uri, tmp_path):
    old = writer(uri)
    for step in (10, 20, 30):
        old.put(saved(tmp_path, step))
    new = writer(uri, 20)
    new.prune({10, 20})
    assert new.steps() == [10, 20]
    new.put(saved(tmp_path, 40))
    old.prune({10})
    assert new.steps() == [10, 40]
    new.prune({40})
    folders, _ = new._listed()
    assert list(folders) == [(40, 2)]


def test_a_damaged_copy_is_named_and_passed_over(store, tmp_path):
    copies = writer(store.uri("copies/damaged"))
    for step in (10, 20):
        copies.put(saved(tmp_path, step))
    [path] = [one for one in store.objects("copies/damaged") if re.search("20-.*weights", one)]
    content = bytearray(store.read(f"copies/damaged/{path}"))
    content[-1] ^= 1
    store.put(f"copies/damaged/{path}", bytes(content))
    told: list[str] = []
    assert copies.fetch(tmp_path / "elsewhere", told.append).step == 10
    assert len(told) == 1
    assert re.search(r"000000000020-.*sha256", told[0])
    store.delete(f"copies/damaged/{path.replace('20-', '10-')}")
    assert copies.fetch(tmp_path / "third", told.append) is None
    assert "missing" in told[-1]


@pytest.mark.usefixtures("one_thread")
def test_training_puts_what_it_keeps_and_does_not_wait_for_a_store_that_refuses(store, table, tmp_path, capsys):
    training = tiny().replace(
        checkpoint={"every": 2, "keep_last": 1, "keep_best": "none", "retry_seconds": 0, "copy_to": store.uri("runs")}
    )
    with store.refusing("AccessDenied", ("PUT",)):
        run(training, table, tmp_path, steps=3)
    told = capsys.readouterr().out
    assert re.search(r"s3://clips/runs/\S+: cannot be written: .*AccessDenied.*000000000002 has no copy", told)
    copies = Copies(store.uri("runs"), tmp_path.name)
    assert copies.steps() == []
    diary, _ = run(training, table, tmp_path, steps=6)
    assert [event.clock.step for event in diary.events if isinstance(event, CheckpointWritten)] == [4, 6]
    assert copies.steps() == [6]
    assert copies.fetch(tmp_path / "elsewhere").step == 6
    [own] = checkpoint.steps(tmp_path / "checkpoints")
    for file in own.iterdir():
        assert (tmp_path / "elsewhere/000000000006" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("/mnt/copies", "is not of an object store"),
        ("hdfs://host/x", "is not of an object store"),
        ("s3://", "names no bucket"),
        ("s3://key:word@bucket/x", "settings are recorded"),
        ("s3://bucket/x?secret_key=1", "settings are recorded"),
        ("s3://bucket/x?endpoint=minio", "option endpoint="),
    ],
)
def test_what_is_no_store_is_refused_by_name(uri, says):
    with pytest.raises(ValueError, match=says):
        CheckpointConfig(copy_to=uri)
