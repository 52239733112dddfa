"""One thread that does the writing in order, so that a disk that hangs or is full never holds up training."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable

# A write that takes longer goes on in the thread. Nearly all take microseconds, and waiting for those means that
# a killed process has lost nothing.
PATIENCE_SECONDS = 0.05
RETRY_SECONDS = 1.0


class Writer:
    """Runs jobs one after another; a job that fails for the disk's sake (``OSError``) is tried again until it works."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._behind = False
        self._thread = threading.Thread(target=self._work, name="marey-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Have ``job`` done; returns when it is, or after 50 ms, or at once while the writer is behind."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
            if not self._behind:
                self._behind = not self._changed.wait_for(lambda: not self._jobs, PATIENCE_SECONDS)

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for all jobs; whether they are done."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout)

    def close(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds for all jobs, then stop; returns how many are left undone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs, timeout)
            self._closing = True
            self._changed.notify_all()
            return len(self._jobs)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._insist(job)
            with self._changed:
                self._jobs.popleft()
                self._behind = self._behind and bool(self._jobs)
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            return None if self._closing else self._jobs[0]

    def _insist(self, job: Callable[[], None]) -> None:
        complained = False
        while not self._closing or not complained:
            try:
                job()
                return
            except OSError as error:
                if not complained:
                    print(f"{self._what}: cannot be written ({error}); held in memory and retried", file=sys.stderr)
                complained = True
                time.sleep(RETRY_SECONDS)
            except Exception as error:  # a picture that no encoder takes must not end the record of the run
                print(f"{self._what}: a record was dropped ({error!r})", file=sys.stderr)
                return
