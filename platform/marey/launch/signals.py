"""SIGTERM (`ray job stop`, a scheduler, a shutdown) means what Ctrl-C means: put everything away, and say so."""

import os
import signal
import threading
from types import FrameType

_terminated = threading.Event()


def install() -> None:
    """Take SIGTERM. To be called again after Ray is joined, which takes it for itself.

    A process that was started in the background may have inherited that Ctrl-C is ignored: here it never is.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _on_sigterm)


def terminated() -> bool:
    """Whether SIGTERM has come."""
    return _terminated.is_set()


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _terminated.set()
    # While Ray trains it listens to this signal, and ends its workers in order before it lets go.
    os.kill(os.getpid(), signal.SIGINT)
