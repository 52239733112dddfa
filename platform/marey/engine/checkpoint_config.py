"""When checkpoints are saved, where their copies go, and what is kept."""

from typing import Literal
from urllib.parse import parse_qsl

from pydantic import Field, field_validator

from marey.clips.location import check_uri
from marey.config import Config
from marey.errors import ClipError

STORES = ("s3", "gs", "abfs", "abfss", "file")
OPTIONS = ("endpoint_override", "scheme", "region")


def check_store(uri: str) -> str:
    """``uri`` if it is of an object store, with options as a clip table's; else `ValueError` says why not."""
    base, _, options = uri.partition("?")
    scheme, mark, _ = base.partition("://")
    if not mark or scheme not in STORES:
        known = ", ".join(f"{one}://" for one in STORES)
        raise ValueError(f"{uri}: is not of an object store ({known}); write for example s3://bucket/marey")
    try:
        check_uri(uri)
    except ClipError as error:
        raise ValueError(str(error)) from None
    if unknown := [name for name, _ in parse_qsl(options) if name not in OPTIONS]:
        raise ValueError(f"{uri}: has the option {unknown[0]}=; there are {', '.join(OPTIONS)}")
    return uri


class CheckpointConfig(Config):
    """When to save and what to keep."""

    every: int = Field(500, gt=0)
    """Steps from one checkpoint to the next; the last step is always saved."""
    copy_to: str | None = None
    """An object store (s3://bucket/marey, gs://, abfs://) where each checkpoint is put too, below the run's name; a run
    whose own folder is gone, or has older ones, goes on from there."""
    minutes: float | None = Field(None, gt=0)
    """Also save when so long has passed since the last one; none: by steps alone."""
    wait: bool = False
    """Let training wait until a checkpoint is written; false: it waits only for the copy that is then written."""
    retry_seconds: float = Field(60.0, ge=0)
    """How long a save that the storage refuses is tried again, at growing intervals, while training goes on."""
    max_failed: int = Field(3, gt=0)
    """Saves in a row that may fail before training stops, if that went on for retry_seconds; the last step's save is
    one too many by itself."""
    keep_last: int = Field(2, gt=0)
    """Newest checkpoints that are kept, beside the best."""
    keep_best: Literal["loss", "top1", "none"] = "loss"
    """Also keep the checkpoint with the lowest mean training loss since the one before, or with the highest top-1
    accuracy of the validation, which is then saved whenever it is reached."""

    @field_validator("copy_to")
    @classmethod
    def _is_a_store(cls, uri: str | None) -> str | None:
        return uri if uri is None else check_store(uri)
