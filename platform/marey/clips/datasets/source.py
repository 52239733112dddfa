"""One video to prepare."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One video: a stable name, where it lies (absolute path), and what is known about it."""

    source_id: str
    uri: str
    label: int | None = None
    label_name: str | None = None
    split: str | None = None
