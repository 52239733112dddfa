"""The desk beside the driver: one actor at which workers tell how far they have come, and hear that they should stop.

This module is all that the actor's process imports: without PyTorch it starts in a fraction of the time.
"""

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from marey.fleet.cluster import beside_driver


@dataclass(frozen=True)
class Place:
    """Where a worker runs, and where it writes its stacks."""

    node: str
    pid: int
    started: int | None
    """Ticks from the machine's start to the process': process numbers come again."""
    stacks: Path


@dataclass(frozen=True)
class Beat:
    """What a worker tells."""

    group: float
    """The same for all workers that were started together, and for no others."""
    rank: int
    place: Place
    step: int
    doing: str
    still: float
    """Seconds since anything went on."""
    limit: float
    """Seconds that may pass so."""


class Hang(NamedTuple):
    """What was found: the workers that are to blame, all of them, and the words for it."""

    guilty: list[Beat]
    everyone: list[Beat]
    words: str


@dataclass
class Heard:
    """A worker's last beat, and when it came."""

    beat: Beat
    at: float


@dataclass
class _Bell:
    """Of one attempt."""

    reason: int = 0
    listening: int = 0
    rung: asyncio.Event = field(default_factory=asyncio.Event)


class _Desk:
    """The actor's body: the last beat of every worker of the group that was started last, and the attempts' bells."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.beats: dict[int, Heard] = {}
        self.bells: defaultdict[int, _Bell] = defaultdict(_Bell)

    async def beat(self, beat: Beat) -> None:
        if any(one.beat.group != beat.group for one in self.beats.values()):
            self.beats.clear()
        self.beats[beat.rank] = Heard(beat, time.monotonic())

    async def leave(self, group: float, rank: int) -> None:
        """This worker is done, well or not."""
        if rank in self.beats and self.beats[rank].beat.group == group:
            del self.beats[rank]

    async def forget(self) -> None:
        self.beats.clear()

    async def look(self) -> Hang | None:
        return judge(list(self.beats.values()), self.limit, time.monotonic())

    async def ring(self, bell: int, reason: int) -> None:
        self.bells[bell].reason = reason
        self.bells[bell].rung.set()

    async def listening(self, bell: int) -> int:
        return self.bells[bell].listening

    async def heard(self, bell: int) -> int:
        """Why ``bell`` was rung, once it is."""
        self.bells[bell].listening += 1
        await self.bells[bell].rung.wait()
        return self.bells[bell].reason


def open_desk(limit: float) -> Any:
    """The actor; ``limit``: seconds after which a silent worker counts as hanging."""
    return beside_driver(_Desk, limit, max_concurrency=100_000)


def judge(heard: list[Heard], limit: float, now: float) -> Hang | None:
    """Whether workers hang: those that are silent for ``limit`` seconds, else all if any has stood still for long."""
    everyone = [one.beat for one in heard]
    silent = [one for one in heard if now - one.at > limit]
    if silent:
        words = ", ".join(f"worker {one.beat.rank} has not been heard of for {now - one.at:.0f} s" for one in silent)
        return Hang([one.beat for one in silent], everyone, words)
    still = [one.beat for one in heard if one.beat.still > one.beat.limit]
    if still:
        words = ", ".join(f"worker {one.rank} has stood still for {one.still:.0f} s ({one.doing})" for one in still)
        return Hang(everyone, everyone, words)
    return None
