"""A hook that says when training waits for its clips, and what would mend it."""

import os
import sys

from marey.clips.row import Storage
from marey.engine.events import Event, Started, Stepped

WINDOW = 50  # steps that are judged together
_SHARE = 0.1  # of the time: from here on it is told
_SKIPPED = 2  # first steps, which fill the feed

# Processor time of reading a clip of 16 frames, from those stored at stride 1 or 4, relative to storage h264:
# docs/performance.md, the mean of its columns.
READING_COST: dict[Storage, float] = {"source": 2.2, "h264": 1.0, "jpeg": 0.7, "raw": 0.06}


class DataWait:
    """Tells once, from rank 0, that the last steps waited for data: what decoding costs, and who would keep up."""

    def __init__(self, rank: int, storage: Storage, decode_actors: int = 0) -> None:
        self.rank = rank
        self.storage = storage
        self.decode_actors = decode_actors
        self.first = 0
        self.told = False
        self.steps: list[Stepped] = []

    def on(self, event: Event) -> None:
        """See `Hook.on`."""
        if self.rank != 0 or self.told:
            return
        if isinstance(event, Started):
            self.first = event.clock.step + _SKIPPED
        elif isinstance(event, Stepped) and event.clock.step > self.first:
            self.steps.append(event)
            if len(self.steps) == WINDOW:
                self._judge()
                self.steps.clear()

    def _judge(self) -> None:
        seconds, waited = sum(one.seconds for one in self.steps), sum(one.data_seconds for one in self.steps)
        if waited < _SHARE * seconds:
            return
        self.told = True
        decoding = sum(one.decode_seconds for one in self.steps)
        last = self.steps[-1]
        clips, workers = last.clock.batch * len(self.steps), last.strategy.world
        needed = decoding / workers / max(1e-9, seconds - waited)
        start = (
            f"data     {100 * waited / seconds:.0f} % of the last {len(self.steps)} steps was waiting for clips; "
            f"decoding takes {1000 * decoding / clips:.3g} ms of a processor a clip, "
        )
        have = self._processors()
        if needed <= have:
            mend = f"for which {_count(have)} a worker are enough: reading the table is slow, or other work takes them"
        else:
            mend = (
                f"and a worker would need {needed:.1f} processors for it where it has {_count(have)}: "
                f"{'; '.join(self._remedies(needed - have))}"
            )
        print(start + mend, file=sys.stdout, flush=True)

    def _processors(self) -> float:
        """Of each worker, for decoding."""
        if self.decode_actors:
            return float(self.decode_actors)
        return len(os.sched_getaffinity(0)) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def _remedies(self, missing: float) -> list[str]:
        more = f"give it {missing:.1f} more (fleet.decode_actors takes those of other hosts)"
        own = READING_COST[self.storage]
        cheaper = [f"{storage} ({100 * cost / own:.0f} %)" for storage, cost in READING_COST.items() if cost < own]
        prepare = f"prepare the table with a clips.storage that costs less, about: {', '.join(cheaper)}"
        return [more, *([prepare] if cheaper else []), "or raise repeats, which decodes once for several samples"]


def _count(processors: float) -> str:
    return f"{processors:g}" if processors == int(processors) else f"{processors:.1f}"
