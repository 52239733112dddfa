"""Steps whose numbers are bad: what counts as such, what is done, and which batches a run has left out.

A batch is left out for good: the clock and the schedule go on over it, the weights never see it. Which ones these are
stands in ``left_out.json`` beside the checkpoints from the moment it is decided, so that a run that is killed, or goes
back to a checkpoint, leaves out the same.
"""

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from pydantic import Field

from marey.clips.location import write_atomically
from marey.config import Config
from marey.engine.strategy import StepResult
from marey.errors import CheckpointError

LEFT_OUT = "left_out.json"

Action = Literal["stop", "skip", "rollback"]


class BadStepsConfig(Config):
    """What is done at a step whose numbers are bad; every worker decides alike."""

    not_finite: Action = "stop"
    """A loss or gradient norm that is not finite. stop: end the run; skip: leave the batch out, weights and moments
    stay as they were; rollback: go back to the newest checkpoint, and leave the batch out from there on."""
    spike: Literal["ignore", "stop", "skip", "rollback"] = "ignore"
    """The same for a loss or gradient norm far above those before."""
    loss_factor: float = Field(3.0, gt=1)
    """A spike is a loss above so many times the median of the last good steps,"""
    norm_factor: float = Field(10.0, gt=1)
    """or a gradient norm, before clipping, above so many times its median."""
    history: int = Field(50, gt=0)
    """Good steps of which the medians are; before there are so many, no step is a spike."""
    before: int = Field(0, ge=0)
    """rollback: steps before the bad one, since the checkpoint, that are left out with it."""
    most: int = Field(5, gt=0)
    """Most bad steps that are skipped or rolled back among the last `within`; one more stops the run."""
    within: int = Field(500, gt=0)
    """Steps over which bad ones are counted."""


class Range(NamedTuple):
    """Steps that are left out, both ends included and counted from 1; the last one was bad."""

    first: int
    last: int


@dataclass(frozen=True)
class Verdict:
    """That a step is bad."""

    action: Action
    reason: str
    """Its numbers."""


class BadSteps:
    """What a run knows of its bad steps. Every worker has one, in the same state."""

    def __init__(self, config: BadStepsConfig, directory: Path, state: Mapping[str, Any], rank: int) -> None:
        self.config = config
        self.path = directory / LEFT_OUT
        self.rank = rank
        self.ranges = sorted({*_ranges(state.get("left_out", [])), *_read(self.path)})
        recent = state.get("recent", {})
        self.losses = deque[float](recent.get("losses", []), maxlen=config.history)
        self.norms = deque[float](recent.get("grad_norms", []), maxlen=config.history)

    def leaves_out(self, step: int) -> bool:
        """Whether the batch of step ``step`` (from 1) is left out."""
        return any(one.first <= step <= one.last for one in self.ranges)

    def count(self, step: int) -> int:
        """Steps left out up to ``step``."""
        return len({number for one in self.ranges for number in range(one.first, min(one.last, step) + 1)})

    def judge(self, step: int, result: StepResult) -> Verdict | None:
        """What to do about step ``step`` (from 1); None: its numbers are good, and from now on among the last."""
        finite = math.isfinite(result.loss) and math.isfinite(result.grad_norm)
        reason = f"loss {result.loss}, gradient norm {result.grad_norm}"
        action = self.config.not_finite
        if finite:
            if self.config.spike == "ignore" or not (spike := self._spike(result)):
                self.losses.append(result.loss)
                self.norms.append(result.grad_norm)
                return None
            reason, action = f"{reason} ({spike})", self.config.spike
        return self._limited(step, Verdict(action, reason))

    def leave_out(self, step: int, since: int | None = None) -> None:
        """From now on leave out step ``step``; and, of a run that goes back to step ``since``, those just before it."""
        first = step if since is None else max(since + 1, step - self.config.before)
        self.ranges = sorted({*self.ranges, Range(first, step)})
        if self.rank == 0:
            write_atomically(self.path, json.dumps({"left_out": self.ranges}).encode())

    def facts(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        recent = {"losses": list(self.losses), "grad_norms": list(self.norms)}
        return {"left_out": self.ranges, "recent": recent}

    def _spike(self, result: StepResult) -> str:
        """In what the step is a spike; empty if it is none."""
        numbers = (
            ("loss", result.loss, self.losses, self.config.loss_factor),
            ("gradient norm", result.grad_norm, self.norms, self.config.norm_factor),
        )
        found = []
        for name, value, recent, factor in numbers:
            usual = median(recent) if len(recent) == self.config.history else 0.0
            if usual > 0 and value > factor * usual:
                found.append(f"{name} is {value / usual:.1f} times the median of the last {len(recent)} good steps")
        return ", ".join(found)

    def _limited(self, step: int, verdict: Verdict) -> Verdict:
        """``verdict``, or stop where too many steps before were bad."""
        before = [one.last for one in self.ranges if step - self.config.within < one.last < step]
        if verdict.action == "stop" or len(before) < self.config.most:
            return verdict
        listed = ", ".join(map(str, before))
        return Verdict(
            "stop",
            f"{verdict.reason}; of the {self.config.within} steps before, {len(before)} were bad already ({listed}), "
            f"and no more are left out (bad_steps.most={self.config.most})",
        )


def _ranges(listed: Any) -> list[Range]:
    return [Range(int(first), int(last)) for first, last in listed]


def _read(path: Path) -> list[Range]:
    if not path.exists():
        return []
    try:
        return _ranges(json.loads(path.read_text())["left_out"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: unreadable ({error}); it says which batches the run leaves out. Mend it, or delete it: then the "
            "run relies on what its checkpoints say"
        ) from None
