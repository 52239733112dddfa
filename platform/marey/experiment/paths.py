"""Where things go, and paths in settings."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def default_results() -> Path:
    """``$MAREY_HOME``, else ``~/marey``."""
    return Path(os.environ.get("MAREY_HOME") or Path.home() / "marey")


def _absolute(path: Path) -> Path:
    """A job runs in a throw-away copy of the repository, where a relative path would point to nothing."""
    if not path.is_absolute():
        raise ValueError(f'{str(path)!r} is relative, but a job runs in a copy of the repository; write "$PWD/{path}"')
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
