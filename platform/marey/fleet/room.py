"""With how many workers a run can go on: sizes that divide its batch, and places for them in the cluster."""

import time
from collections.abc import Callable

from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from marey.engine.events import Asked
from marey.errors import ConfigError
from marey.experiment.training import Training
from marey.fleet.cluster import describe, say
from marey.fleet.resources import Shares

REPLACEMENT_S = 10.0  # how long a machine that was lost may take to come back before fewer workers go on
GROW_AFTER_S = 60.0  # workers run at least so long before more of them start
TELL_S = 60.0
POLL_S = 0.5


def sizes(training: Training) -> list[int]:
    """Numbers of workers with which the run can go on, ascending: those that share its batch evenly."""
    fleet = training.fleet
    fewer = range(fleet.min_workers or fleet.workers, fleet.workers)
    return [*(size for size in fewer if _divides(training, size)), fleet.workers]


def elastic_note(training: Training) -> str:
    """With how many workers an elastic run goes on, and with how many it does not, in words."""
    fleet, allowed = training.fleet, sizes(training)
    if fleet.min_workers in (None, fleet.workers):
        return ""
    unused = [str(size) for size in range(fleet.min_workers or 0, fleet.workers) if size not in allowed]
    not_used = f" (not {', '.join(unused)}: batch={training.batch} cannot be shared evenly)" if unused else ""
    return f"; goes on with {' or '.join(str(size) for size in allowed)}{not_used}"


def _divides(training: Training, size: int) -> bool:
    try:
        return training.batch % size == 0 and bool(training.micro_batch(size))
    except ConfigError:
        return False


class Room:
    """Places for workers, each a placement group: what is free is kept, and an autoscaler is asked for the rest."""

    def __init__(self, places: int, bundle: dict[str, float]) -> None:
        self.groups: list[PlacementGroup] = [placement_group([bundle]) for _ in range(places)]

    def __enter__(self) -> "Room":
        return self

    def __exit__(self, *error: object) -> None:
        for group in self.groups:
            remove_placement_group(group)

    @property
    def found(self) -> int:
        """Places that are there."""
        return sum(placement_group_table(group)["state"] == "CREATED" for group in self.groups)


class Growth:
    """Looks for room for more workers than run now, once these have their places: before, it would take them."""

    def __init__(self, allowed: list[int], workers: int, bundle: dict[str, float], started: Callable[[], bool]) -> None:
        self.larger = [size - workers for size in allowed if size > workers]
        self.bundle = bundle
        self.started = started
        self.room: Room | None = None
        self.since = 0.0

    def __enter__(self) -> "Growth":
        return self

    def __exit__(self, *error: object) -> None:
        if self.room is not None:
            self.room.__exit__()

    def found(self) -> bool:
        """Whether there is room for one of the larger numbers of workers."""
        if not self.larger:
            return False
        if self.room is None:
            if self.started():
                self.room, self.since = Room(self.larger[-1], self.bundle), time.monotonic()
            return False
        return time.monotonic() - self.since > GROW_AFTER_S and self.room.found >= self.larger[0]


def bundle_of(shares: Shares, decode_actors: int) -> dict[str, float]:
    """What one worker and the actors that decode for it take."""
    held = shares.for_ray()
    return held | {"CPU": held["CPU"] + decode_actors}


def wait_for_room(
    allowed: list[int], bundle: dict[str, float], asked: Asked, say: Callable[[str], None] = say
) -> int | None:
    """The largest of the sizes ``allowed`` for which there is room, once there is some; None if asked to stop before.

    The largest of all is waited for for `REPLACEMENT_S` at most, a smaller one for as long as it takes.
    """
    began = told = time.monotonic()
    with Room(allowed[-1], bundle) as room:
        while not asked():
            found, now = room.found, time.monotonic()
            fitting = [size for size in allowed if size <= found]
            if found == allowed[-1] or (fitting and now - began > REPLACEMENT_S):
                return fitting[-1]
            if now - told > TELL_S:
                told = now
                say(f"waiting for room: {allowed[0]} workers × {bundle} are needed, {found} fit; {describe()}")
            time.sleep(POLL_S)
    return None
