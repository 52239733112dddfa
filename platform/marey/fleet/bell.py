"""How workers hear that they should stop: a bell at the desk, to which each of them listens in a thread."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import ray

from marey.engine.events import Stop


@dataclass(frozen=True)
class Bell:
    """Rung once, at the desk (`marey.fleet.desk`); picklable, so that workers can listen to it."""

    desk: Any
    number: int = 0

    def another(self) -> "Bell":
        """One that has not been rung."""
        return replace(self, number=self.number + 1)

    def ring(self, reason: Stop) -> None:
        """Have all workers stop; does not wait."""
        self.desk.ring.remote(self.number, int(reason))

    def listening(self) -> int:
        """How many workers listen."""
        return int(ray.get(self.desk.listening.remote(self.number)))


class Ear:
    """Listens on a worker; called, it answers at once (see `marey.engine.events.Asked`)."""

    def __init__(self, bell: Bell) -> None:
        self._heard = Stop.GO_ON
        threading.Thread(target=self._listen, args=(bell,), name="ear", daemon=True).start()

    def __call__(self) -> Stop:
        """What was heard so far."""
        return max(self._heard, Stop.PREEMPTION if _preempted() else Stop.GO_ON)

    def _listen(self, bell: Bell) -> None:
        try:
            self._heard = Stop(ray.get(bell.desk.heard.remote(bell.number)))
        except ray.exceptions.RayError:
            return  # the driver is gone, and with it soon this worker


def _preempted() -> bool:
    """Whether Ray Train has told this worker that a machine of the run is taken away.

    `ray.train.get_preemption_info` tells the same, but has all workers wait for one another.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None
