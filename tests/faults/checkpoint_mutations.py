"""Ways in which a folder of checkpoints is spoilt, all from a seed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from clips.mutations import mutated
from marey.engine import checkpoint

SPOILT, UNHARMED = "spoilt", "unharmed"


def _file(path: Path, rng: Random) -> Path:
    return rng.choice(sorted(path.iterdir()))


def _bytes(path: Path, rng: Random, steps: list[Path]) -> str:
    """Bits, runs of bytes, headers: changed, removed, repeated, exchanged."""
    file = _file(path, rng)
    file.write_bytes(mutated(file.read_bytes(), rng)[1])
    return SPOILT


def _emptied(path: Path, rng: Random, steps: list[Path]) -> str:
    _file(path, rng).write_bytes(b"")
    return SPOILT


def _deleted(path: Path, rng: Random, steps: list[Path]) -> str:
    _file(path, rng).unlink()
    return SPOILT


def _a_folder_instead(path: Path, rng: Random, steps: list[Path]) -> str:
    file = _file(path, rng)
    file.unlink()
    file.mkdir()
    return SPOILT


def _of_another_step(path: Path, rng: Random, steps: list[Path]) -> str:
    """A file of equal size from another checkpoint: any but the one of the moving average, which are all alike."""
    other = rng.choice([step for step in steps if step != path])
    file = _file(path, rng)
    shutil.copyfile(other / file.name, file)
    return SPOILT


def _exchanged(path: Path, rng: Random, steps: list[Path]) -> str:
    """Two files of one checkpoint have each other's name."""
    one, other = rng.sample(sorted(path.iterdir()), 2)
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)
    return SPOILT


def _extra(path: Path, rng: Random, steps: list[Path]) -> str:
    """A file more, which sounds as if it belonged here."""
    other = rng.choice([step for step in steps if step != path])
    name = rng.choice(["weights-00003-of-00003.safetensors", "weights.safetensors", "emas.safetensors", "state.json.1"])
    shutil.copyfile(_file(other, rng), path / name)
    return UNHARMED


def _manifest(path: Path, rng: Random, steps: list[Path]) -> str:
    """One value of the manifest is another one, whether JSON or not."""
    file = path / checkpoint.MANIFEST
    told = json.loads(file.read_text())
    name = rng.choice(sorted(told["files"]))
    kind = rng.randrange(5)
    if kind == 0:
        told["step"] += rng.choice([-1, 1])
    elif kind == 1:
        told["files"][name]["bytes"] += rng.choice([-1, 1])
    elif kind == 2:
        told["files"][name]["sha256"] = rng.randbytes(32).hex()
    elif kind == 3:
        del told["files"][name]
    else:
        told["files"][name] = told["files"][rng.choice([other for other in sorted(told["files"]) if other != name])]
    file.write_text(json.dumps(told, indent=1, sort_keys=True))
    return SPOILT


def _state(path: Path, rng: Random, steps: list[Path]) -> str:
    file = path / checkpoint.STATE
    told = json.loads(file.read_text())
    told[rng.choice(sorted(told))] = rng.choice([None, 0.5, "text", {}, 10**30])
    file.write_text(json.dumps(told, indent=1))
    return SPOILT


def _renamed(path: Path, rng: Random, steps: list[Path]) -> str:
    """A later step by its name alone, or no step at all."""
    later = f"{int(path.name) + rng.choice([10, 10**6]):012d}"
    path.rename(path.with_name(rng.choice([later, f"{path.name}.old", path.name.lstrip("0")])))
    return SPOILT


def _gone(path: Path, rng: Random, steps: list[Path]) -> str:
    shutil.rmtree(path)
    return SPOILT


KINDS: dict[str, Callable[[Path, Random, list[Path]], str]] = {
    "bytes": _bytes,
    "bytes again": _bytes,
    "bytes once more": _bytes,
    "emptied": _emptied,
    "deleted": _deleted,
    "a folder instead": _a_folder_instead,
    "of another step": _of_another_step,
    "exchanged": _exchanged,
    "extra": _extra,
    "manifest": _manifest,
    "state": _state,
    "renamed": _renamed,
    "gone": _gone,
}


def spoil(folder: Path, rng: Random) -> tuple[list[str], int | None]:
    """Spoil the newest checkpoint or several in one way each; the ways, and the newest step that is still whole."""
    known = checkpoint.steps(folder)
    # The newest is always among them: spoiling only others would leave nothing to find.
    chosen = {known[-1], *(path for path in known[:-1] if rng.random() < 0.3)}
    ways, whole = [], {int(path.name) for path in known}
    for path in sorted(chosen):
        way = rng.choice(sorted(KINDS))
        remaining = [one for one in known if one.is_dir() and (one == path or one not in chosen)]
        if len(remaining) < 2 and way in ("of another step", "extra"):
            way = "bytes"
        ways.append(f"{way} of {int(path.name)}")
        if KINDS[way](path, rng, remaining) == SPOILT:
            whole.discard(int(path.name))
    return ways, max(whole, default=None)
