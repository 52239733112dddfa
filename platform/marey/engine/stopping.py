"""What became of a run that was stopped: where it stopped, and what of it was not saved in time."""

import json
import time
from pathlib import Path

from marey.clips.location import write_atomically
from marey.engine import checkpoint
from marey.engine.events import Asked, Ended, Event, Saving, Stop, Stopped

NOTE = "stop.json"


class StopNote:
    """A hook that remembers where a run was stopped, and leaves a note in its folder while that is not saved.

    A stop that was not saved in time (a scheduler kills after its grace) is thus told when the run is taken up again.
    """

    def __init__(self, directory: Path, rank: int, asked: Asked) -> None:
        self.directory = directory
        self.rank = rank
        self.asked = asked
        self.stopped: Stopped | None = None

    def on(self, event: Event) -> None:
        """See `Hook.on`."""
        if isinstance(event, Stopped):
            self.stopped = event
        if self.rank != 0:
            return
        if isinstance(event, Saving) and (reason := self.asked()):
            leave_note(self.directory, reason, event.clock.step)
        elif isinstance(event, Stopped | Ended):
            (self.directory / NOTE).unlink(missing_ok=True)


def leave_note(directory: Path, reason: Stop, step: int | None = None) -> None:
    """Note that a stop was asked for, and at which step it is saved, once that is known."""
    note = {"reason": str(reason), "time": time.strftime("%Y-%m-%d %H:%M:%S"), "step": step}
    write_atomically(directory / NOTE, json.dumps(note).encode())


def take_note(directory: Path) -> str | None:
    """What became of a stop that was not saved, in words; None without one. It is told once."""
    path = directory / NOTE
    if not path.exists():
        return None
    note = json.loads(path.read_text())
    path.unlink()
    saved = checkpoint.steps(directory / "checkpoints")
    last = int(saved[-1].name) if saved else 0
    if note["step"] is not None and note["step"] <= last:
        return None  # killed between the save and the note's end
    where = f"the checkpoint of step {last}" if saved else "its beginning"
    repeated = f"{note['step'] - last} steps are repeated" if note["step"] is not None else f"it goes on from {where}"
    return f"the stop of {note['time']} ({note['reason']}) was not saved in time: {repeated}"
