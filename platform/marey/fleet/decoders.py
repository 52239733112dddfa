"""Decoding in Ray actors beside a worker, behind the interface of an executor."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from threading import Lock
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from marey.errors import ResourceError

START_S = 120.0


class DecodeActors(Executor):
    """``count`` actors of one CPU each, on this host where it has room; a call goes to the one with least to do.

    An actor that dies is started again, and its calls are made again, up to three times. Raises `ResourceError` where
    they do not start.
    """

    def __init__(self, count: int, start_s: float = START_S) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3, scheduling_strategy=here)(_Decoder)
        self.actors = [actor.remote() for _ in range(count)]
        self.lock = Lock()
        self.underway = [0] * count
        try:
            ray.get([one.run.remote(bool) for one in self.actors], timeout=start_s)
        except GetTimeoutError:
            self.shutdown()
            raise ResourceError(
                f"fleet.decode_actors={count}: the cluster has not found them a CPU each within {start_s:g} s; "
                "fewer, or 0: each worker decodes in its own threads"
            ) from None

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `Executor.submit`; call and arguments are pickled."""
        with self.lock:
            place = self.underway.index(min(self.underway))
            self.underway[place] += 1
        result: Future[Any] = Future()

        def done(found: Future[Any]) -> None:
            with self.lock:
                self.underway[place] -= 1
            error = found.exception()
            if error is None:
                result.set_result(found.result())
            else:  # the actor's own error, not Ray's account of it
                result.set_exception(error.cause if isinstance(error, RayTaskError) else error)

        self.actors[place].run.remote(call, *args, **kwargs).future().add_done_callback(done)
        return result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the actors, whatever they do."""
        for one in self.actors:
            ray.kill(one)


@contextmanager
def decode_actors(count: int) -> Iterator[DecodeActors | None]:
    """The actors while they are needed; None for a count of 0."""
    if not count:
        yield None
        return
    with DecodeActors(count) as actors:
        yield actors


class _Decoder:
    """The body of an actor."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call."""
        return call(*args, **kwargs)
