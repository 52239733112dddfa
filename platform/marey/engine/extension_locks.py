"""Locks of PyTorch's compiled extensions that nobody will release.

A process that builds an extension (DeepSpeed builds some at its start) holds a file named ``lock`` beside it; one
that was killed meanwhile leaves it, and from then on every process waits for it without a word.
"""

import os
import time
from pathlib import Path

from marey.errors import TrainingError

STALE_S = 15 * 60  # longer than any build takes


def refuse_stale_locks(root: Path | None = None) -> None:
    """Raise `TrainingError` naming the locks below ``root`` (default: PyTorch's own place) that are stale."""
    root = root or _root()
    # ROOT/NAME/lock; below the default root ROOT/PYTHON_AND_DEVICE/NAME/lock.
    found = [path for pattern in ("*/lock", "*/*/lock") for path in root.glob(pattern)]
    stale = sorted(path for path in found if _age(path) > STALE_S)
    if stale:
        raise TrainingError(
            f"{', '.join(map(str, stale))}: left by a build of an extension that was killed, and waited for without "
            f"end; if no build is running, remove: rm {' '.join(map(str, stale))}"
        )


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 if it has gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _root() -> Path:
    from torch.utils import cpp_extension

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
