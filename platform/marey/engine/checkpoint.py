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
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from marey.clips.location import sync_directory, write_atomically
from marey.config import Config
from marey.engine.train_state import TrainState
from marey.errors import CheckpointError

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
FENCE = "writer"  # who may write here
SHARD_BYTES = 2 * 2**30  # most bytes of one weights file


class CheckpointConfig(Config):
    """When to save and what to keep."""

    every: int = Field(500, gt=0)
    """Steps from one checkpoint to the next; the last step is always saved."""
    minutes: float | None = Field(None, gt=0)
    """Also save when so long has passed since the last one; none: by steps alone."""
    wait: bool = False
    """Let training wait until a checkpoint is written; false: it waits only for the copy that is then written."""
    keep_last: int = Field(2, gt=0)
    """Newest checkpoints that are kept, beside the best."""
    keep_best: Literal["loss", "top1", "none"] = "loss"
    """Also keep the checkpoint with the lowest mean training loss since the one before, or with the highest top-1
    accuracy of the validation, which is then saved whenever it is reached."""


@dataclass(frozen=True)
class Saved:
    """One checkpoint on disk."""

    path: Path
    step: int
    state: Mapping[str, Any]


def take_over(directory: Path) -> str:
    """Become the only writer of a run's checkpoints; what `save` then asks for. Whoever was it before is cut off."""
    directory.mkdir(parents=True, exist_ok=True)
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
    final = directory / f"{step:012d}"
    temporary = directory / f".writing-{step:012d}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_files(temporary, state, facts)
        if holder is not None:
            _check_holder(directory, holder)
        _commit(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Saved(final, step, dict(facts))


def _write_files(directory: Path, state: TrainState, facts: Mapping[str, Any]) -> None:
    moments = {f"{name}/{key}": tensor for name, each in state.moments.items() for key, tensor in each.items()}
    _write_tensors(directory, "weights", state.weights)
    if moments:
        _write_tensors(directory, "optimizer", moments)
    if state.ema:
        _write_tensors(directory, "ema", state.ema)
    record = {**facts, "optimizer_steps": state.optimizer_steps, "ema_updates": state.ema_updates}
    record |= {"loss_scale": state.loss_scale, "loss_scale_steps": state.loss_scale_steps}
    (directory / "state.json").write_text(json.dumps(record, indent=1))
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _flushed_hash(path)} for path in _sorted(directory)}
    manifest = {"format_version": FORMAT_VERSION, "step": facts["step"], "files": files}
    (directory / MANIFEST).write_text(_sealed(manifest))
    _flushed_hash(directory / MANIFEST)


def _write_tensors(directory: Path, kind: str, tensors: Mapping[str, Tensor]) -> None:
    shards = list(_shards(tensors))
    for number, shard in enumerate(shards, 1):
        suffix = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
        save_file(
            {name: tensor.contiguous() for name, tensor in shard.items()}, directory / f"{kind}{suffix}.safetensors"
        )


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if shard and held + size > SHARD_BYTES:
            yield shard
            shard, held = {}, 0
        shard[name] = tensor
        held += size
    yield shard


def _commit(temporary: Path, final: Path) -> None:
    """Make the directory durable, then visible; an older one of that step (never a whole one) gives way."""
    sync_directory(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync_directory(final.parent)


def _flushed_hash(path: Path) -> str:
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _sorted(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.name != MANIFEST)


def verify(path: Path) -> Saved:
    """Check a checkpoint's manifest, sizes and hashes; `CheckpointError` names the file that does not fit."""
    manifest = _read_manifest(path / MANIFEST)
    if manifest["format_version"] != FORMAT_VERSION:
        raise OtherVersion(
            f"{path}: format version {manifest['format_version']}, this version of Marey reads {FORMAT_VERSION}"
        )
    for name, expected in manifest["files"].items():
        _check_file(path / name, expected)
    return Saved(path, int(manifest["step"]), json.loads((path / "state.json").read_text()))


class OtherVersion(CheckpointError):
    """A whole checkpoint of a format that this version does not know: not damaged, and not to be passed over."""


def _sealed(manifest: Mapping[str, Any]) -> str:
    """A manifest's text, which holds the hash of the rest of itself."""
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": seal}, indent=1, sort_keys=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        manifest: dict[str, Any] = json.loads(text)
        del manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: missing or unreadable ({error}); this checkpoint is not whole") from None
    if _sealed(manifest) != text:
        raise CheckpointError(f"{path}: content differs from its own sha256")
    return manifest


def _check_file(file: Path, expected: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file}: missing")
    if (size := file.stat().st_size) != expected["bytes"]:
        raise CheckpointError(f"{file}: {size} bytes, the manifest says {expected['bytes']}")
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != expected["sha256"]:
            raise CheckpointError(f"{file}: content differs from its sha256 in the manifest")


def steps(directory: Path) -> list[Path]:
    """Checkpoint directories, oldest first; not verified."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.is_dir() and path.name.isdigit())


def newest(directory: Path, report: Any = print) -> Saved | None:
    """The newest whole checkpoint, or None. A damaged one is named through ``report`` and set aside, never deleted.

    Raises `CheckpointError` at one of another version: starting from an older one, or anew, would lose work.
    """
    for path in reversed(steps(directory)):
        try:
            return verify(path)
        except OtherVersion:
            raise
        except CheckpointError as error:
            names = [f"damaged-{path.name}", *(f"damaged-{path.name}-{n}" for n in range(2, 1000))]
            aside = next(place for place in map(path.with_name, names) if not place.exists())
            report(f"checkpoint set aside as {aside}: {error}")
            path.rename(aside)
    return None


def best(directory: Path) -> Path | None:
    """The checkpoint that the newest one names as the best; None without one. Not verified."""
    known = steps(directory)
    try:
        step = json.loads((known[-1] / "state.json").read_text()).get("best_step") if known else None
    except (OSError, ValueError):
        return None
    path = directory / f"{step:012d}" if step is not None else None
    return path if path in known else None


def read(saved: Saved) -> TrainState:
    """Weights and moments of a verified checkpoint."""
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _read_tensors(saved.path, "optimizer").items():
        parameter, key = name.rsplit("/", 1)
        moments.setdefault(parameter, {})[key] = tensor
    return TrainState(
        _read_tensors(saved.path, "weights"),
        moments,
        int(saved.state.get("optimizer_steps", 0)),
        _read_tensors(saved.path, "ema"),
        int(saved.state.get("ema_updates", 0)),
        float(saved.state.get("loss_scale", 0.0)),
        int(saved.state.get("loss_scale_steps", 0)),
    )


def weights(saved: Saved) -> dict[str, Tensor]:
    """What to compute with: the moving average of a verified checkpoint, where it holds one, else its weights."""
    return _read_tensors(saved.path, "ema") or _read_tensors(saved.path, "weights")


def _read_tensors(directory: Path, kind: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(directory.glob(f"{kind}*.safetensors")):
        tensors |= load_file(path)
    return tensors


def prune(directory: Path, config: CheckpointConfig, best: int | None) -> None:
    """Delete all but the newest ``keep_last`` and the one of step ``best``; leftovers of killed writers too."""
    kept = {path.name for path in steps(directory)[-config.keep_last :]}
    if best is not None:
        kept.add(f"{best:012d}")
    for path in steps(directory):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for leftover in directory.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
