"""A checkpoint is whole or does not exist; a damaged one is set aside and the one before it taken."""

import json
from pathlib import Path

import pytest
import safetensors.torch as library
import torch

from marey.engine import checkpoint
from marey.engine.checkpoint import newest, prune, read, save, steps
from marey.engine.checkpoint_config import CheckpointConfig
from marey.engine.tensor_files import file_hash, write_flushed, write_tensors
from marey.engine.train_state import TrainState
from marey.errors import CheckpointError

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")


def state(value: float = 1.0) -> TrainState:
    weights = {"model.a": torch.full((3, 4), value), "model.b": torch.full((5,), value)}
    moments = {"model.a": {key: torch.full((3, 4), value / 2) for key in ("exp_avg", "exp_avg_sq")}}
    return TrainState(weights, moments, optimizer_steps=7)


def test_what_is_read_is_what_was_saved(tmp_path):
    save(tmp_path, state(), {"step": 3, "seed": 5})
    found = newest(tmp_path)
    back = read(found)
    assert (found.step, found.state["seed"], back.optimizer_steps) == (3, 5, 7)
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in state().weights.items())
    assert torch.equal(back.moments["model.a"]["exp_avg_sq"], state().moments["model.a"]["exp_avg_sq"])
    assert {path.name for path in found.path.iterdir()} == set(FILES)


def test_large_states_are_cut_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 50)
    found = save(tmp_path, state(), {"step": 1})
    assert (found.path / "weights-00001-of-00002.safetensors").exists()
    assert read(newest(tmp_path)).weights.keys() == state().weights.keys()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "empty"])
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_taken(tmp_path, name, damage):
    save(tmp_path, state(1.0), {"step": 1})
    file = save(tmp_path, state(2.0), {"step": 2}).path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x55
    {
        "flip": lambda: file.write_bytes(content),
        "cut": lambda: file.write_bytes(content[:-9]),
        "delete": file.unlink,
        "empty": lambda: file.write_bytes(b""),
    }[damage]()
    told = []
    assert newest(tmp_path, told.append).step == 1
    assert "damaged-000000000002" in told[0]
    assert (tmp_path / "damaged-000000000002").is_dir()
    assert newest(tmp_path, told.append).step == 1
    assert len(told) == 1


def test_a_failing_disk_leaves_the_old_one_and_no_rest(tmp_path, monkeypatch):
    save(tmp_path, state(), {"step": 1})
    monkeypatch.setattr(
        checkpoint, "write_tensors", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, state(), {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001"]


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, state(), {"step": step})
    prune(tmp_path, CheckpointConfig(keep_last=2), best=2)
    assert [int(path.name) for path in steps(tmp_path)] == [2, 4, 5]


def test_another_format_is_refused_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    path = save(tmp_path, state(), {"step": 1}).path
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format version 99"):
        checkpoint.verify(path)


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert newest(tmp_path / "none") is None


@pytest.mark.parametrize("bit", range(8))
def test_a_manifest_with_any_bit_flipped_is_refused(tmp_path, bit: int):
    path = save(tmp_path, state(), {"step": 200}).path
    file = path / "MANIFEST.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.verify(path)


def test_a_checkpoint_that_breaks_twice_is_set_aside_twice(tmp_path):
    save(tmp_path, state(), {"step": 1})
    for _ in range(2):
        (save(tmp_path, state(), {"step": 2}).path / "weights.safetensors").unlink()
        assert newest(tmp_path, lambda text: None).step == 1
    assert [path.name for path in steps(tmp_path)] == ["000000000001"]
    assert len(list(tmp_path.glob("damaged-*"))) == 2


def test_a_checkpoint_of_a_newer_version_is_left_alone_and_stops_the_run(tmp_path, monkeypatch):
    save(tmp_path, state(), {"step": 1})
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    save(tmp_path, state(), {"step": 2})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format version 99"):
        newest(tmp_path)
    assert len(steps(tmp_path)) == 2


def test_the_only_one_is_never_deleted(tmp_path):
    save(tmp_path, state(), {"step": 4})
    prune(tmp_path, CheckpointConfig(keep_last=1), best=3)
    assert [int(path.name) for path in steps(tmp_path)] == [4]


def test_one_that_gave_way_to_a_writer_that_was_killed_is_brought_back(tmp_path, monkeypatch):
    save(tmp_path, state(1.0), {"step": 2})
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if target.name.isdigit():
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, state(2.0), {"step": 2})
    monkeypatch.undo()
    assert steps(tmp_path) == []
    assert read(newest(tmp_path)).weights["model.a"].unique().tolist() == [1.0]
    assert [path.name for path in steps(tmp_path)] == [f"{2:012d}"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_every_bit_of_every_type_survives(tmp_path, dtype: torch.dtype):
    bits = torch.randint(0, 256, (64,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensor = bits.view(8, 8).T > 99 if dtype == torch.bool else bits.view(dtype).view(2, -1).T
    save(tmp_path, TrainState({"w": tensor}), {"step": 1})
    back = read(newest(tmp_path)).weights["w"]
    assert back.dtype == dtype
    assert torch.equal(back.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8))


def test_files_are_as_the_library_writes_them_and_are_hashed_on_the_way(tmp_path):
    tensors = {
        "b": torch.randn(3, 4),
        "a.é": torch.tensor(2.0),
        "h": torch.randn(5).bfloat16(),
        "none": torch.empty(0, 3),
    }
    told = write_tensors(tmp_path / "mine", tensors)
    assert (tmp_path / "mine").read_bytes() == library.save(tensors)
    assert told == {"bytes": (tmp_path / "mine").stat().st_size, "sha256": file_hash(tmp_path / "mine")}


def test_only_what_the_manifest_names_is_read(tmp_path):
    folder = save(tmp_path, state(1.0), {"step": 1}).path
    library.save_file({"model.a": torch.zeros(3, 4), "more": torch.zeros(1)}, folder / "weights-2.safetensors")
    library.save_file({"model.a": torch.zeros(3, 4)}, folder / "ema.safetensors")
    back = read(newest(tmp_path))
    assert back.weights.keys() == state().weights.keys()
    assert torch.equal(back.weights["model.a"], state(1.0).weights["model.a"])
    assert not back.ema


def test_a_renamed_folder_is_no_other_step(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, state(step), {"step": step})
    (tmp_path / "000000000001").rename(tmp_path / "000000000009")
    (tmp_path / "000000000002").rename(tmp_path / "000000000002.old")
    told = []
    assert newest(tmp_path, told.append).step == 3
    assert "holds step 1; was this folder renamed?" in told[0]


def test_steps_are_ordered_by_number(tmp_path):
    for step in (7, 10**12, 5):
        save(tmp_path, state(), {"step": step})
    (tmp_path / "00000000000²").mkdir()
    (tmp_path / "9").mkdir()
    assert [int(path.name) for path in steps(tmp_path)] == [5, 7, 10**12]


HEADERS = {
    "no header": b"",
    "a length beyond the file": (10**9).to_bytes(8, "little"),
    "a length beyond all files": b"\xff" * 8,
    "no JSON": (8).to_bytes(8, "little") + b"garbage!",
    "a list": (8).to_bytes(8, "little") + b"[1, 2]  ",
    "an unknown type": None,
    "a place beyond the file": None,
    "a shape that does not fit": None,
    "a shape that overflows": None,
    "a negative place": None,
}


def header_of(kind: str) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    entry |= {
        "an unknown type": {"dtype": "F7"},
        "a place beyond the file": {"data_offsets": [0, 800]},
        "a shape that does not fit": {"shape": [3]},
        "a shape that overflows": {"shape": [2**62, 2**62]},
        "a negative place": {"data_offsets": [-8, 0]},
    }[kind]
    text = json.dumps({"w": entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize("kind", HEADERS)
def test_a_file_that_is_no_safetensors_is_named_though_the_manifest_agrees(tmp_path, monkeypatch, kind):
    content = HEADERS[kind] if HEADERS[kind] is not None else header_of(kind)
    monkeypatch.setattr(checkpoint, "write_tensors", lambda path, _: write_flushed(path, [content]))
    save(tmp_path, TrainState({"w": torch.ones(2)}), {"step": 1})
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be read as safetensors"):
        read(newest(tmp_path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"files": {"../../weights.safetensors": {"bytes": 1, "sha256": ""}}}, "names no step or no state.json"),
        ({"files": {"state.json": {"bytes": 1}}}, "lacks bytes or sha256"),
        (
            {"files": {"state.json": {"bytes": 1, "sha256": ""}, "../x": {"bytes": 1, "sha256": ""}}},
            "is not a file that",
        ),
        ({"step": "2"}, "names no step"),
        ({"step": 3}, "is of step 2, the manifest says 3"),
    ],
)
def test_a_manifest_that_is_sealed_and_makes_no_sense_is_refused(tmp_path, change, told):
    path = save(tmp_path, state(), {"step": 2}).path
    manifest = json.loads((path / "MANIFEST.json").read_text())
    del manifest["sha256"]
    (path / "MANIFEST.json").write_text(checkpoint._sealed(manifest | change))
    with pytest.raises(CheckpointError, match=told):
        checkpoint.verify(path)


ANYTHING = {
    "deep lists": "[" * 100_000,
    "deep names": '{"a":' * 100_000,
    "a list": "[]",
    "a long number": "1" * 10_000,
    "no UTF-8": "\udcff",
    "half a pair": '{"sha256": "\\ud800"}',
}


@pytest.mark.parametrize("text", ANYTHING.values(), ids=ANYTHING)
def test_a_manifest_of_anything_is_refused(tmp_path, text):
    path = save(tmp_path, state(), {"step": 2}).path
    (path / "MANIFEST.json").write_text(text, errors="surrogateescape")
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
        checkpoint.verify(path)


def test_where_nothing_can_be_set_aside_it_is_passed_over(tmp_path, monkeypatch):
    save(tmp_path, state(), {"step": 1})
    (save(tmp_path, state(), {"step": 2}).path / "weights.safetensors").write_bytes(b"")
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    told = []
    assert newest(tmp_path, told.append).step == 1
    assert "it cannot be set aside as damaged-000000000002 (Read-only file system)" in told[0]
