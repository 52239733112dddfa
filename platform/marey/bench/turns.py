"""Rows of a table take turns: each row's model is made ready, measured for its memory, then timed round by round."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from marey.bench import memory
from marey.config import Config
from marey.errors import ConfigError

Clock = Literal["wall", "cpu"]
OUT_OF_MEMORY = "out of memory"


class TurnsBench(Config):
    """What all tables of turns can be told."""

    rounds: int = Field(3, gt=0)
    """Turns that each row takes, after one to warm up."""
    steps: int | None = Field(None, gt=0)
    """Steps of a turn. Default: 1 on a CPU, 5 on a GPU."""
    frames: int = Field(16, gt=0)
    """Frames of a clip."""
    crop: int = Field(224, gt=0)
    """Height and width of a clip in pixels."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""


def device_of(bench: TurnsBench) -> torch.device:
    """The device to measure; `ConfigError` where there is no GPU to be had."""
    cuda = bench.device == "cuda" or (bench.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise ConfigError("device=cuda: PyTorch finds no GPU here; device=cpu or auto")
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def steps_of(bench: TurnsBench, device: torch.device) -> int:
    """Steps of a turn."""
    return bench.steps or (5 if device.type == "cuda" else 1)


@dataclass(frozen=True)
class Ready:
    """A row that can step: forward, backward and an optimiser step on its batch, to the loss."""

    step: Callable[[], float]
    model: nn.Module
    optimizer: torch.optim.Optimizer


def make_moments(ready: Ready) -> None:
    """One optimiser step on gradients of zero, so that no measured step allocates the moments."""
    for parameter in ready.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ready.optimizer.step()
    ready.optimizer.zero_grad()


@dataclass
class Timed:
    """What the turns of one row found; times in seconds a clip, one for each round."""

    name: str
    clips: int
    """Clips of its step."""
    seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)
    held_bytes: int = 0
    """Weights, buffers and moments."""
    peak_bytes: int | None = None
    """With what a step adds at its highest point; None where it cannot be told."""
    loss: float = float("nan")
    failure: str | None = None

    @property
    def median(self) -> float:
        """Seconds a clip."""
        return statistics.median(self.seconds)


def ratio(one: Timed, other: Timed) -> float | None:
    """Median over the rounds of one row's time over the other's in the same round; None: one of them has none."""
    if one.failure is not None or other.failure is not None:
        return None
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


class Turns:
    """Keeps the rows' models between their turns if ``resident``, and builds them anew otherwise."""

    def __init__(
        self, prepare: Callable[[str], Ready], device: torch.device, resident: bool, clock: Clock = "wall"
    ) -> None:
        self.prepare = prepare
        self.device = device
        self.clock: Clock = clock
        self.resident = resident
        self.ready: dict[str, Ready] = {}

    def take(self, one: Timed, steps: int, warm_up: bool) -> None:
        """One turn of one row: its memory if it is the first, else the time of its steps."""
        try:
            self._take(one, steps, warm_up)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            one.failure = OUT_OF_MEMORY
        if not self.resident or one.failure is not None:
            self.ready.clear()
            memory.give_back()

    def _take(self, one: Timed, steps: int, warm_up: bool) -> None:
        fresh = one.name not in self.ready
        if fresh:
            self.ready[one.name] = self.prepare(one.name)
        ready = self.ready[one.name]
        if fresh and not warm_up:
            ready.step()
        if warm_up:
            added = memory.added(ready.step, self.device)
            one.held_bytes = memory.held(ready.model, ready.optimizer)
            one.peak_bytes = None if added is None else one.held_bytes + added
        else:
            self._time(one, ready, steps)

    def _time(self, one: Timed, ready: Ready, steps: int) -> None:
        clips = steps * one.clips
        in_optimizer = Stopwatch(self.device, self.clock)
        # On a GPU a look at the clock amid a step would make the device wait for it.
        handles = [
            ready.optimizer.register_step_pre_hook(lambda *_: in_optimizer.start()),
            ready.optimizer.register_step_post_hook(lambda *_: in_optimizer.stop()),
        ] if self.device.type == "cpu" else []  # fmt: skip
        whole = Stopwatch(self.device, self.clock)
        whole.start()
        for _ in range(steps):
            one.loss = ready.step()
        whole.stop()
        one.seconds.append(whole.seconds / clips)
        if handles:
            one.optimizer_seconds.append(in_optimizer.seconds / clips)
        for handle in handles:
            handle.remove()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device had no memory left: the allocator says so, or a library that found none for itself."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text


class Stopwatch:
    """Time between `start` and `stop`, added up."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self.read = time.process_time if clock == "cpu" else time.perf_counter
        self.device = device
        self.seconds = 0.0
        self.started = 0.0

    def start(self) -> None:
        """Begin, when the device has finished what it has been given."""
        self.started = self._now()

    def stop(self) -> None:
        """End, likewise."""
        self.seconds += self._now() - self.started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.read()
