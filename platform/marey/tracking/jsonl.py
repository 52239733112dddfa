"""The record that every run has, with or without a server: numbers, pictures and events as files in its folder."""

import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from marey.tracking.base import EndStatus, RunDescription
from marey.tracking.journal import EVENTS, METRICS, PICTURES, AppendFile, Point, point_line, read_lines, read_point
from marey.tracking.writer import Writer

END_SECONDS = 30.0
FLUSH_SECONDS = 10.0


class JsonlTracker:
    """Writes ``metrics.jsonl``, ``events.jsonl`` and ``pictures/<key>/<step:08d>.png``; see `marey.tracking.journal`.

    A run that resumes at an earlier step computes the same numbers again. A key's steps only go up here, so the
    replayed ones are dropped: the file has neither gaps nor doubled steps, however often the run was killed.
    """

    def start(self, run: RunDescription) -> None:
        """Open the files, mended if the last process died while writing, and note the start."""
        self._directory = run.directory
        run.directory.mkdir(parents=True, exist_ok=True)
        self._metrics = AppendFile(run.directory / METRICS)
        self._events = AppendFile(run.directory / EVENTS)
        self._last = _last_steps(run.directory / METRICS)
        self._last_picture = _last_pictures(run.directory / EVENTS)
        self._writer = Writer(str(run.directory))
        dataset = _plain(asdict(run.dataset)) if run.dataset is not None else None
        self._event("start", name=run.name, parameters=_plain(run.parameters), tags=_plain(run.tags), dataset=dataset)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers at ``step``; see `Tracker.metrics`. Waits 50 ms at most."""
        fresh = {key: float(value) for key, value in values.items() if step > self._last.get(key, -1)}
        if fresh:
            self._last.update(dict.fromkeys(fresh, step))
            line = point_line(Point(step, _now(), fresh))
            self._writer.submit(lambda: self._metrics.append(line))

    def picture(self, step: int, key: str, image: np.ndarray) -> None:
        """Record ``image``, uint8 [H, W, 3] RGB; see `Tracker.picture`. Waits 50 ms at most."""
        assert re.fullmatch(r"\w[\w.\-]*(/\w[\w.\-]*)*", key), f"{key!r} is not fit for the name of a folder"
        assert (image.dtype, image.ndim) == (np.uint8, 3), f"picture {key}: {image.dtype} {image.shape}"
        if step > self._last_picture.get(key, -1):
            self._last_picture[key] = step
            file = f"{PICTURES}/{key}/{step:08d}.png"
            pixels = image.copy()  # the caller may go on drawing in its array
            self._writer.submit(lambda: _write_png(self._directory / file, pixels))
            self._event("picture", step=step, key=key, file=file)

    def flush(self) -> None:
        """See `Tracker.flush`."""
        self._writer.flush(FLUSH_SECONDS)

    def end(self, status: EndStatus, message: str = "") -> None:
        """Note the end and close, waiting up to 30 s for the disk."""
        self._event("end", status=status, message=message)
        if left := self._writer.close(END_SECONDS):
            print(f"{self._directory}: {left} records could not be written and are lost", file=sys.stderr)
        else:
            self._metrics.close()
            self._events.close()

    def _event(self, event: str, **fields: object) -> None:
        line = {"event": event, "time": _now(), **fields}
        self._writer.submit(lambda: self._events.append(line))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can say of ``values``; numbers that are not finite become words."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=str), parse_constant=str)
    return plain


def _now() -> float:
    return round(time.time(), 3)


def _last_steps(metrics: Path) -> dict[str, int]:
    """For each key the step that was recorded last."""
    last: dict[str, int] = {}
    for line, _ in read_lines(metrics):
        point = read_point(line)
        last.update(dict.fromkeys(point.values, point.step))
    return last


def _last_pictures(events: Path) -> dict[str, int]:
    return {line["key"]: line["step"] for line, _ in read_lines(events) if line["event"] == "picture"}


def _write_png(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(image).save(temporary, format="png")
    temporary.replace(path)
