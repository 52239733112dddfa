"""Where things go, and paths in settings."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from marey.clips.location import check_uri, is_uri
from marey.errors import ClipError


def default_results() -> Path:
    """``$MAREY_HOME``, else ``~/marey``."""
    return Path(os.environ.get("MAREY_HOME") or Path.home() / "marey")


def _absolute(path: Path) -> Path:
    """A job runs in a throw-away copy of the repository, where a relative path would point to nothing."""
    if not path.is_absolute():
        raise ValueError(f'{str(path)!r} is relative, but a job runs in a copy of the repository; write "$PWD/{path}"')
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def _place(text: str) -> str:
    """A path as `AbsolutePath` takes it, or a URI as it was given: connecting is for whoever reads there."""
    if not is_uri(text):
        return str(_absolute(Path(text)))
    try:
        check_uri(text)
    except ClipError as error:
        raise ValueError(str(error)) from None
    return text


def _text(given: object) -> object:
    return str(given) if isinstance(given, Path) else given


TablePlace = Annotated[str, BeforeValidator(_text), AfterValidator(_place)]
