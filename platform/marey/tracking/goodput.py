"""Where a run's time went: into steps that count, or into starts, interruptions, saves and validations.

Read from the record in the run's folder alone. A step that is computed again after an interruption is recorded once, so
what it took is part of the interruption. Time between an end that was recorded and the next start is nobody's.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from marey.errors import RunError
from marey.tracking.journal import EVENTS, Point, read_lines, read_points

PACE = "speed/clips_per_second"
STALL = "system/checkpoint_stall_seconds"
LEAST_SECONDS = 5.0
"""What a gap must be longer than, and than three steps, to be an interruption."""


@dataclass(frozen=True)
class Goodput:
    """Seconds of a run."""

    steps: float
    """Of steps that count."""
    start: float
    """Before the first step."""
    stalls: float
    """Waiting for checkpoints to be copied or written."""
    validations: float
    interruptions: tuple[float, ...]
    """From the end of the last step that counts to the begin of the next one: each with what it had to do again."""
    rest: float
    """Between steps: pictures, and what is too short to be told."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.steps + self.start + self.stalls + self.validations + sum(self.interruptions) + self.rest

    @property
    def share(self) -> float:
        """Of steps that count."""
        return self.steps / self.total


class _Gap(NamedTuple):
    """From one recorded step to the next one."""

    after: int
    began: float
    ended: float
    steps: float


def read_goodput(directory: Path) -> Goodput:
    """Of the run in ``directory``. Raises `RunError` where nothing was recorded."""
    events = [line for line, _ in read_lines(directory / EVENTS)]
    found = goodput(list(read_points(directory)), events)
    if found is None:
        raise RunError(f"{directory}: no step is recorded there")
    return found


def goodput(points: Sequence[Point], events: Sequence[dict[str, Any]]) -> Goodput | None:
    """See `read_goodput`; None where no step is recorded."""
    starts = [event for event in events if event["event"] == "start"]
    paced = sorted((point for point in points if PACE in point.values), key=lambda point: point.step)
    if not starts or not paced:
        return None
    batch = float(starts[0]["parameters"]["batch"])
    gaps = _gaps(paced, batch, starts[0]["time"])
    away = list(_away(events))
    validated = {point.step for point in points if any(key.startswith("validation/") for key in point.values)}
    usual = median(gap.steps for gap in gaps)
    steps, start, stalls, validations, rest, interruptions = 0.0, 0.0, 0.0, 0.0, 0.0, []
    stalled = _by_gap(gaps, points)
    for number, gap in enumerate(gaps):
        steps += gap.steps
        stall = stalled[number]
        stalls += stall
        over = gap.ended - gap.began - gap.steps - stall - sum(_overlap(gap, *span) for span in away)
        over = max(0.0, over)
        if number == 0:
            start += over
        elif gap.after in validated:
            validations += over
        elif over > max(LEAST_SECONDS, 3 * usual):
            interruptions.append(over)
        else:
            rest += over
    return Goodput(steps, start, stalls, validations, tuple(interruptions), rest)


def _gaps(paced: Sequence[Point], batch: float, began: float) -> list[_Gap]:
    found, step, time = [], paced[0].step - 1, began
    for point in paced:
        found.append(_Gap(step, time, point.time, (point.step - step) * batch / point.values[PACE]))
        step, time = point.step, point.time
    return found


def _by_gap(gaps: Sequence[_Gap], points: Iterable[Point]) -> list[float]:
    """What training waited for checkpoints in each gap."""
    ends, found = [gap.ended for gap in gaps], [0.0] * len(gaps)
    for point in points:
        if STALL in point.values:
            found[min(bisect_left(ends, point.time), len(gaps) - 1)] += point.values[STALL]
    return found


def _away(events: Iterable[dict[str, Any]]) -> Iterable[tuple[float, float]]:
    """From an end to the next start."""
    ended: float | None = None
    for event in events:
        if event["event"] == "start" and ended is not None:
            yield ended, event["time"]
        if event["event"] in ("start", "end"):
            ended = event["time"] if event["event"] == "end" else None


def _overlap(gap: _Gap, began: float, ended: float) -> float:
    return max(0.0, min(gap.ended, ended) - max(gap.began, began))
