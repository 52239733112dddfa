"""How workers hear that they should stop: a bell beside the driver, to which each of them listens in a thread."""

import asyncio
import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from marey.engine.events import Stop


class _Bell:
    """The actor's body."""

    def __init__(self) -> None:
        self._reason = Stop.GO_ON
        self._listening = 0
        self._rung = asyncio.Event()

    async def ring(self, reason: Stop) -> None:
        self._reason = reason
        self._rung.set()

    async def listening(self) -> int:
        return self._listening

    async def heard(self) -> Stop:
        self._listening += 1
        await self._rung.wait()
        return self._reason


class Bell:
    """Rung once; picklable, so that workers can listen to it."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        many = ray.remote(_Bell).options(num_cpus=0, scheduling_strategy=here, max_concurrency=100_000)
        self.actor: Any = many.remote()

    def ring(self, reason: Stop) -> None:
        """Have all workers stop; does not wait."""
        self.actor.ring.remote(reason)

    def listening(self) -> int:
        """How many workers listen."""
        return int(ray.get(self.actor.listening.remote()))


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
            self._heard = ray.get(bell.actor.heard.remote())
        except ray.exceptions.RayError:
            return  # the driver is gone, and with it soon this worker


def _preempted() -> bool:
    """Whether Ray Train has told this worker that a machine of the run is taken away.

    `ray.train.get_preemption_info` tells the same, but has all workers wait for one another.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None
