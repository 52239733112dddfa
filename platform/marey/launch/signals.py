"""SIGTERM (`ray job stop`, a scheduler, a shutdown) means what Ctrl-C means: put everything away, and say so."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from marey.engine.events import Asked, Stop

_terminated = threading.Event()
_asked: list[Stop] | None = None  # while signals are kept: those that have come


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal; the text says where, and how it goes on."""


def install() -> None:
    """Take SIGTERM. To be called again after Ray is joined, which takes it for itself.

    A process that was started in the background may have inherited that Ctrl-C is ignored: here it never is.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _on_sigterm)


def terminated() -> bool:
    """Whether SIGTERM has come."""
    return _terminated.is_set()


@contextmanager
def kept() -> Iterator[Asked]:
    """While a training runs, a first signal is kept for who asks what is given here; a second one interrupts at once.

    To be entered after whatever else takes signals.
    """
    global _asked
    _asked = []
    signal.signal(signal.SIGINT, _on_sigint)
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield lambda: max(_asked or [Stop.GO_ON])
    finally:
        _asked = None
        install()


def _on_sigint(number: int, frame: FrameType | None) -> None:
    _keep(Stop.CTRL_C, "Ctrl-C")


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _terminated.set()
    if _asked is None:
        # Ray Tune listens to this signal, and ends its trials in order before it lets go.
        os.kill(os.getpid(), signal.SIGINT)
    else:
        _keep(Stop.SIGTERM, "SIGTERM")


def _keep(reason: Stop, name: str) -> None:
    assert _asked is not None
    if _asked:
        raise KeyboardInterrupt
    _asked.append(reason)
    # Not `print`, which may be what was interrupted.
    os.write(2, f"\n{name}: this step is finished and saved; once more to end at once\n".encode())
