"""Checkpoints of our own: safetensors by name, committed by one rename, verified before they are trusted.

    checkpoints/000000000200/
        weights.safetensors, or weights-00001-of-00003 ...    parameters and buffers by name
        ema.safetensors ...                                   their moving average, where there is one
        optimizer.safetensors ...                             moments: "<parameter>/exp_avg", "<parameter>/exp_avg_sq"
        state.json                                            step, epoch, seed, lineage
        MANIFEST.json                                         format version; size and sha256 of each file

Written into a temporary directory beside, every file flushed to disk, the manifest last, then renamed: a directory of
that name is whole or does not exist. `newest` verifies and falls back to an older one if a file was damaged since.
"""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from marey.clips.location import sync_directory, write_atomically
from marey.engine.checkpoint_config import CheckpointConfig
from marey.engine.tensor_files import file_hash, read_tensors, write_flushed, write_tensors
from marey.engine.train_state import TrainState
from marey.errors import CheckpointError

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
FENCE = "writer"  # who may write here
SHARD_BYTES = 2 * 2**30  # most bytes of one weights file
_STEP = re.compile(r"[0-9]{12,}")
_FILE = re.compile(r"(weights|optimizer|ema)(-[0-9]{5}-of-[0-9]{5})?\.safetensors|state\.json")
_WRITING, _DELETING = ".writing-", ".deleting-"
_AT_ONCE = 4  # files that are hashed at a time
_LOOKS = 4  # at a checkpoint that the storage does not give


@dataclass(frozen=True)
class Saved:
    """One checkpoint on disk."""

    path: Path
    step: int
    state: Mapping[str, Any]
    files: tuple[str, ...]
    """Names of the files with tensors; what else lies beside them is not read."""


def take_over(directory: Path) -> str:
    """Become the only writer of a run's checkpoints; what `save` then asks for. Whoever was it before is cut off."""
    directory.mkdir(parents=True, exist_ok=True)
    _clear(directory)
    holder = f"process {os.getpid()} on {socket.gethostname()} {secrets.token_hex(8)}"
    write_atomically(directory / FENCE, holder.encode())
    return holder


def _check_holder(directory: Path, holder: str) -> None:
    now = (directory / FENCE).read_text()
    if now != holder:
        raise CheckpointError(
            f"{directory}: {now.rsplit(' ', 1)[0]} has taken this run over meanwhile; this process writes no more to it"
        )


def save(directory: Path, state: TrainState, facts: Mapping[str, Any], holder: str | None = None) -> Saved:
    """Write checkpoint ``directory/<step>``; ``facts`` (with "step") become its state.json. Raises `OSError`.

    ``holder``: what `take_over` gave; `CheckpointError` and no checkpoint if another has taken over since.
    """
    step = int(facts["step"])
    if holder is not None:
        _check_holder(directory, holder)
    _clear(directory)
    with _committed(directory, step) as temporary:
        files = _write_files(temporary, state, facts)
        if holder is not None:
            _check_holder(directory, holder)
    return Saved(directory / f"{step:012d}", step, dict(facts), files)


def receive(directory: Path, step: int, fill: Callable[[Path], None]) -> Saved:
    """Take in a checkpoint whose files ``fill`` writes into a folder; `CheckpointError` if it is not whole."""
    with _committed(directory, step) as temporary:
        fill(temporary)
        saved = verify(temporary)
        if saved.step != step:
            raise CheckpointError(f"{temporary}: holds step {saved.step}, not {step}")
    return replace(saved, path=directory / f"{step:012d}")


@contextmanager
def _committed(directory: Path, step: int) -> Iterator[Path]:
    """A folder to be filled; it becomes the checkpoint of ``step`` at the end of the block, or is deleted."""
    temporary = directory / f"{_WRITING}{step:012d}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _commit(temporary, directory / f"{step:012d}")
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def names_in(manifest: Path) -> list[str]:
    """The files of a checkpoint beside its manifest; `CheckpointError` for what is no manifest."""
    return list(_read_manifest(manifest)["files"])


def _write_files(directory: Path, state: TrainState, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Write all files, the manifest last; the names of those with tensors."""
    moments = {f"{name}/{key}": tensor for name, each in state.moments.items() for key, tensor in each.items()}
    kinds = {"weights": state.weights, "optimizer": moments, "ema": state.ema}
    files = {}
    for name, tensors in _files(kinds):
        files[name] = write_tensors(directory / name, tensors)
    tensor_files = tuple(files)
    record = {**facts, "optimizer_steps": state.optimizer_steps, "ema_updates": state.ema_updates}
    record |= {"loss_scale": state.loss_scale, "loss_scale_steps": state.loss_scale_steps}
    files[STATE] = write_flushed(directory / STATE, [json.dumps(record, indent=1).encode()])
    manifest = {"format_version": FORMAT_VERSION, "step": facts["step"], "files": files}
    write_flushed(directory / MANIFEST, [_sealed(manifest).encode()])
    return tensor_files


def _files(kinds: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Names of files, and what goes into each."""
    for kind, tensors in kinds.items():
        shards = list(_shards(tensors)) if tensors or kind == "weights" else []
        for number, shard in enumerate(shards, 1):
            suffix = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
            yield f"{kind}{suffix}.safetensors", shard


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors.items():
        size = tensor.nbytes
        if shard and held + size > SHARD_BYTES:
            yield shard
            shard, held = {}, 0
        shard[name] = tensor
        held += size
    yield shard


def size_of(state: TrainState) -> int:
    """Bytes of a state's tensors, which is what a checkpoint takes but for some KB."""
    tensors = [state.weights, state.ema, *state.moments.values()]
    return sum(tensor.nbytes for each in tensors for tensor in each.values())


def _commit(temporary: Path, final: Path) -> None:
    """Make the directory durable, then visible; one of that step that is there already gives way."""
    sync_directory(temporary)
    if final.exists():
        _doom(final)
    temporary.rename(final)
    sync_directory(final.parent)


def _doom(path: Path) -> None:
    """Rename what is to be deleted, so that no half of it can be taken for a checkpoint."""
    path.rename(path.with_name(f"{_DELETING}{path.name}-{secrets.token_hex(4)}"))


def _clear(directory: Path) -> None:
    """Delete what writers that were killed or failed have left; an obstinate rest is left for the next time."""
    for prefix in (_WRITING, _DELETING):
        for leftover in directory.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def verify(path: Path) -> Saved:
    """Check a checkpoint's manifest, sizes and hashes; `CheckpointError` names the file that does not fit."""
    manifest = _read_manifest(path / MANIFEST)
    step, files = manifest["step"], manifest["files"]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="verify") as pool:
        list(pool.map(lambda name: _check_file(path / name, files[name]), files))
    state = _parsed(path / STATE, _text(path / STATE))
    if state.get("step") != step:
        raise CheckpointError(f"{path / STATE}: is of step {state.get('step')}, the manifest says {step}")
    return Saved(path, step, state, tuple(name for name in files if name != STATE))


def reference(path: Path) -> dict[str, Any]:
    """What names the content of a checkpoint, or of a file of weights, for a lineage."""
    if path.is_file():
        return {"path": str(path), "sha256": file_hash(path)}
    manifest = json.loads((path / MANIFEST).read_text())
    return {"path": str(path), "step": manifest["step"], "sha256": manifest["sha256"]}


class OtherVersion(CheckpointError):
    """A whole checkpoint of a format that this version does not know: not damaged, and not to be passed over."""


class Unreadable(CheckpointError):
    """A file is there and the storage does not give it: perhaps it does later."""


def _sealed(manifest: Mapping[str, Any]) -> str:
    """A manifest's text, which holds the hash of the rest of itself."""
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": seal}, indent=1, sort_keys=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    text = _text(path)
    manifest = _parsed(path, text)
    manifest.pop("sha256", None)
    if _sealed(manifest) != text:
        raise CheckpointError(f"{path}: content differs from its own sha256")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise OtherVersion(
            f"{path.parent}: format version {manifest.get('format_version')}, this version of Marey reads "
            f"{FORMAT_VERSION}"
        )
    files = manifest.get("files")
    if type(manifest.get("step")) is not int or not isinstance(files, dict) or STATE not in files:
        raise CheckpointError(f"{path}: names no step or no {STATE}")
    for name, told in files.items():
        if not _FILE.fullmatch(name) or not isinstance(told, dict) or {"bytes", "sha256"} - told.keys():
            raise CheckpointError(f"{path}: {name!r} is not a file that a checkpoint holds, or lacks bytes or sha256")
    return manifest


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        json.dumps(found, indent=1)  # what is nested too deep for that was not written here
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); this checkpoint is not whole") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: is JSON without names; this checkpoint is not whole")
    return found


def _text(path: Path) -> str:
    with _naming(path):
        try:
            return path.read_bytes().decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{path}: is not text; this checkpoint is not whole") from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what the storage says into what it means: a file that is missing, or one that cannot be read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise CheckpointError(f"{path}: missing; this checkpoint is not whole") from None
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read ({error.strerror})") from None


def _check_file(file: Path, expected: Mapping[str, Any]) -> None:
    with _naming(file):
        if not stat.S_ISREG(file.stat().st_mode):
            raise CheckpointError(f"{file}: is not a file")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise CheckpointError(f"{file}: {size} bytes, the manifest says {expected['bytes']}")
        if file_hash(file) != expected["sha256"]:
            raise CheckpointError(f"{file}: content differs from its sha256 in the manifest")


def steps(directory: Path) -> list[Path]:
    """Checkpoint directories, oldest first; not verified. Raises `OSError` where the storage does not tell."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def newest(directory: Path, report: Callable[[str], None] = print) -> Saved | None:
    """The newest whole checkpoint, or None. A damaged one is named through ``report`` and set aside, never deleted.

    Raises `CheckpointError` at one of another version: starting from an older one, or anew, would lose work.
    """
    for path in reversed(steps(directory)):
        try:
            return _verify_as_named(path)
        except OtherVersion:
            raise
        except CheckpointError as error:
            _set_aside(path, error, report)
    return _brought_back(directory)


def _brought_back(directory: Path) -> Saved | None:
    """Where there is no other: one that was to give way to another of its step, whose writer was killed before."""
    for path in sorted(directory.glob(f"{_DELETING}*"), reverse=True):
        with suppress(CheckpointError):
            final = directory / f"{verify(path).step:012d}"
            path.rename(final)
            return _verify_as_named(final)
    return None


def _verify_as_named(path: Path) -> Saved:
    """`verify`, patient with storage that fails for a while. A folder that was renamed is of no other step by that."""
    for look in range(_LOOKS):
        try:
            saved = verify(path)
            break
        except Unreadable:
            if look == _LOOKS - 1:
                raise
            time.sleep(0.2 * 4**look)
    if saved.step != int(path.name):
        raise CheckpointError(f"{path}: holds step {saved.step}; was this folder renamed?")
    return saved


def _set_aside(path: Path, error: CheckpointError, report: Callable[[str], None]) -> None:
    names = itertools.chain([f"damaged-{path.name}"], (f"damaged-{path.name}-{n}" for n in itertools.count(2)))
    aside = next(place for place in map(path.with_name, names) if not place.exists())
    try:
        path.rename(aside)
        report(f"checkpoint set aside as {aside}: {error}")
    except FileNotFoundError:  # deleted meanwhile by the run that it is of
        return
    except OSError as refusal:
        report(f"checkpoint passed over: {error}; it cannot be set aside as {aside.name} ({refusal.strerror})")


def best(directory: Path) -> Path | None:
    """The checkpoint that the newest one names as the best; None without one. Not verified."""
    known = steps(directory)
    try:
        step = json.loads((known[-1] / STATE).read_text()).get("best_step") if known else None
    except (OSError, ValueError):
        return None
    path = directory / f"{step:012d}" if step is not None else None
    return path if path in known else None


def read(saved: Saved) -> TrainState:
    """Weights and moments of a verified checkpoint."""
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _read_tensors(saved, "optimizer").items():
        parameter, key = name.rsplit("/", 1)
        moments.setdefault(parameter, {})[key] = tensor
    return TrainState(
        _read_tensors(saved, "weights"),
        moments,
        int(saved.state.get("optimizer_steps", 0)),
        _read_tensors(saved, "ema"),
        int(saved.state.get("ema_updates", 0)),
        float(saved.state.get("loss_scale", 0.0)),
        int(saved.state.get("loss_scale_steps", 0)),
    )


def weights(saved: Saved) -> dict[str, Tensor]:
    """What to compute with: the moving average of a verified checkpoint, where it holds one, else its weights."""
    return _read_tensors(saved, "ema") or _read_tensors(saved, "weights")


def _read_tensors(saved: Saved, kind: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in saved.files:
        if name.startswith(kind):
            tensors |= read_tensors(saved.path / name)
    return tensors


def prune(directory: Path, config: CheckpointConfig, best: int | None) -> None:
    """Delete all but the newest ``keep_last`` and the one of step ``best``; leftovers of killed writers too."""
    known = steps(directory)
    kept = {path.name for path in known[-config.keep_last :]}
    if best is not None:
        kept.add(f"{best:012d}")
    for path in known:
        if path.name not in kept:
            with suppress(OSError):  # the next time, then
                _doom(path)
    _clear(directory)
