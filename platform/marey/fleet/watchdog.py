"""Noticing that a training stands still: a stopped process, a held interpreter lock, a collective that a rank left out.

Ray sees that a process is alive, and the collectives' own time limit is minutes. Here every worker has a thread that
tells an actor beside the driver how far its training has come; the driver looks there. Workers of which nothing is
heard, or that all stand still, have their stacks written down and are killed, and Ray Train starts the group again.
"""

import faulthandler
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from marey.clips.batch import Batch
from marey.clips.loader import FeedOrder
from marey.engine.evaluate import Feed
from marey.engine.events import Ended, Event, GoingBack, Saving, Started, Stepped
from marey.fleet.desk import Beat, Hang, Place

BEAT_SECONDS = 1.0
LOOK_SECONDS = 2.0
LONG_SECONDS = 1800.0
"""What a first step that compiles, and a save, of which the storage may be slow, are given at least."""
FIRST = 5
"""How many times the limit another first step is given: processes and connections start in it."""
STEPS = 3
"""Steps that may pass, where they take longer than the limit."""
DUMP_SECONDS = 20.0


class Pulse:
    """In a worker: a hook, and a feed around the feed, by which it is known how far training has come.

    ``desk``: see `marey.fleet.desk`; ``limit``: seconds that may pass without progress.
    """

    def __init__(self, desk: Any, limit: float | None, rank: int, logs: Path, compiles: bool = False) -> None:
        self.desk = desk
        self.rank = rank
        self.smallest = limit or math.inf
        self.group: float | None = None
        self.step, self.doing, self.limit = 0, "first step", max(FIRST * self.smallest, LONG_SECONDS if compiles else 0)
        self.steps: deque[float] = deque(maxlen=20)
        self.moved = time.monotonic()
        self.ended = threading.Event()
        # The file stays open: a handler in C writes to it, also while the interpreter's lock is held.
        self.stacks = (logs / f"stacks-{rank}-{os.getpid()}.txt").open("w+")
        faulthandler.register(signal.SIGUSR2, self.stacks, all_threads=True, chain=False)

    def __enter__(self) -> "Pulse":
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.group is not None:
            self.desk.leave.remote(self.group, self.rank)
        faulthandler.unregister(signal.SIGUSR2)
        self.stacks.close()

    def on(self, event: Event) -> None:
        """See `Hook.on`. Collective at the start: the workers agree on what their group is called."""
        self.moved = time.monotonic()
        if isinstance(event, Started) and self.group is None:
            self.group = event.strategy.shared({"group": float(time.time_ns())})["group"]
            threading.Thread(target=self._tell, name="pulse", daemon=True).start()
        elif isinstance(event, Started | GoingBack):  # to a checkpoint, within these processes
            self.doing, self.limit = "going back", max(self.smallest, LONG_SECONDS)
        elif isinstance(event, Stepped):
            self.steps.append(event.seconds)
            self.step = event.clock.step
            self._trains()
        elif isinstance(event, Saving | Ended):
            self.doing, self.limit = "saving", max(self.smallest, LONG_SECONDS)

    def _trains(self) -> None:
        self.doing, self.limit = "training", max(self.smallest, STEPS * statistics.median(self.steps))

    def watched(self, feed: Feed) -> Feed:
        """``feed``, of which every batch counts as progress: an evaluation has no other events."""

        def fed(order: FeedOrder, start: int, stop: int, rank: int, world: int) -> Generator[Batch]:
            batches = feed(order, start, stop, rank, world)
            try:
                for batch in batches:
                    self.moved = time.monotonic()
                    if self.steps:  # a save, or a way back, is over
                        self._trains()
                    yield batch
            finally:
                batches.close()

        return fed

    def _tell(self) -> None:
        assert self.group is not None
        node = ray.get_runtime_context().get_node_id()
        place = Place(node, os.getpid(), _started(os.getpid()), Path(self.stacks.name))
        while True:  # at once: of a worker that hangs before it was ever heard of nobody would know
            still = time.monotonic() - self.moved
            self.desk.beat.remote(Beat(self.group, self.rank, place, self.step, self.doing, still, self.limit))
            if self.ended.wait(BEAT_SECONDS):
                return


@dataclass
class Watchdog:
    """In the driver: ``with Watchdog(desk, directory)`` watches the workers that are given this desk."""

    desk: Any
    directory: Path
    """Where stacks are written, in ``stacks/``."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watchdog":
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                if hang := ray.get(self.desk.look.remote()):
                    self._end(hang)
            except ray.exceptions.RayError as error:
                print(f"watchdog: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)

    def _end(self, hang: Hang) -> None:
        """Write down all stacks, then kill the guilty. Workers that are gone are Ray's business, and none of ours."""
        stacks = _ask_hosts(hang.everyone, "dump")
        ray.get(self.desk.forget.remote())
        guilty = [one for one in hang.guilty if one.rank in stacks]
        if not guilty:
            return
        step = max(one.step for one in hang.everyone)
        path = self.directory / "stacks" / f"{step:012d}-{time.strftime('%H%M%S')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(f"worker {rank}:\n{text}" for rank, text in sorted(stacks.items())))
        shown = "\n".join(f"worker {rank}:\n{_shortened(text)}" for rank, text in sorted(stacks.items()))
        ranks = ", ".join(str(one.rank) for one in guilty)
        print(
            f"training hangs after step {step}: {hang.words}. Stacks of all workers, whole in {path}:\n{shown}\n"
            f"killing worker {ranks}; training starts again from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        _ask_hosts(guilty, "kill")


def _ask_hosts(beats: Iterable[Beat], what: str) -> dict[int, str]:
    """Run `dump` or `kill` on the workers' hosts; what each worker's gave. A host that is silent gives nothing."""
    by_node: dict[str, list[Beat]] = {}
    for beat in beats:
        by_node.setdefault(beat.place.node, []).append(beat)
    asked = []
    for node, there in by_node.items():
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        # Retried by nobody: where a host is gone, its workers are too.
        task = ray.remote(_on_host).options(num_cpus=0, scheduling_strategy=where, max_retries=0)
        asked.append(task.remote([replace(one) for one in there], what))
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=2 * DUMP_SECONDS)
    found: dict[int, str] = {}
    for answer in answered:
        try:
            found |= ray.get(answer)
        except ray.exceptions.RayError as error:
            print(f"watchdog: a host does not answer: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
    return found


def _on_host(beats: list[Beat], what: str) -> dict[int, str]:
    """For the workers among ``beats`` that still live here: their stacks (``dump``), or nothing once killed."""
    living = [one for one in beats if _started(one.place.pid) == one.place.started]
    found = {}
    # One that is stopped last: while it is let go, the others may go on as well, and come to an end of their own.
    for one in sorted(living, key=lambda one: _stopped(one.place.pid)):
        with suppress(ProcessLookupError, FileNotFoundError):  # gone meanwhile
            if what == "kill":
                os.kill(one.place.pid, signal.SIGKILL)
            found[one.rank] = dump(one.place) if what == "dump" else ""
    return found


def dump(place: Place) -> str:
    """The state of a process and the stacks of its threads. One that is stopped is let go for it, and stopped again."""
    before = place.stacks.stat().st_size
    state = _state(place.pid)
    os.kill(place.pid, signal.SIGUSR2)
    if state == "stopped":
        os.kill(place.pid, signal.SIGCONT)
    deadline = time.monotonic() + DUMP_SECONDS
    size = before
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = place.stacks.stat().st_size
        if now == size > before:
            break
        size = now
    if state == "stopped":
        with suppress(ProcessLookupError):  # it went on for a moment, and may have come to an end of its own
            os.kill(place.pid, signal.SIGSTOP)
    with place.stacks.open() as file:
        file.seek(before)
        text = file.read().strip()
    return f"process {place.pid}, {state}\n\n{text or 'no stacks: the process does not answer its signals'}"


def _state(pid: int) -> str:
    """In words, from /proc."""
    letter = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return {"T": "stopped", "t": "stopped", "D": "waiting for a device", "R": "running", "S": "waiting"}.get(
        letter, letter
    )


def _stopped(pid: int) -> bool:
    try:
        return _state(pid) == "stopped"
    except OSError:
        return False


def _started(pid: int) -> int | None:
    """When a process was started; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _shortened(text: str) -> str:
    """Without the threads in which nothing of Marey runs, of which Ray has dozens, and without this module's own."""
    state, *stacks = text.split("\n\n")
    ours = (stack for stack in stacks if f"{os.sep}marey{os.sep}" in stack and Path(__file__).name not in stack)
    return "\n\n".join([state, *ours])
