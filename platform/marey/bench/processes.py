"""What a program and all that it starts cost: processor time and memory, read from /proc while they run."""

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_EVERY_SECONDS = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")

Key = tuple[int, int]  # process id and time of start: ids come again


@dataclass
class Process:
    """One process as it was last seen; times in seconds of processor time, user and system."""

    parent: Key | None
    own: float
    waited: float
    """Of children that it has waited for."""
    alive: bool = True


class Processes:
    """``with Processes(pid) as processes``: watches that process and all its descendants while the block runs.

    What remains of them at the end is killed.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.peak_bytes = 0
        """Most memory of all of them together: proportional set size, so that shared pages count once."""
        self.known: dict[Key, Process] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="processes", daemon=True)

    def __enter__(self) -> "Processes":
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        for (pid, _), process in self.known.items():
            if process.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def seconds(self) -> float:
        """Processor time of all of them so far, also of those that have ended."""
        self._look()
        with self._lock:
            return spent(self.known)

    def look_at_memory(self) -> int:
        """Bytes of all of them now, taken into the peak; also done several times a second."""
        self._look()
        with self._lock:
            living = [pid for (pid, _), process in self.known.items() if process.alive]
        now = sum(map(_pss, living))
        self.peak_bytes = max(self.peak_bytes, now)
        return now

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            self.look_at_memory()

    def _look(self) -> None:
        with self._lock:
            update(self.known, _running(), self.root)


def update(known: dict[Key, Process], running: dict[int, tuple[int, int, float, float]], root: int) -> None:
    """Bring ``known`` up to ``running``: process id -> (parent's id, time of start, own seconds, waited seconds)."""
    keys = {pid: (pid, start) for pid, (_, start, _, _) in running.items()}
    for key, process in known.items():
        process.alive = keys.get(key[0]) == key
    found = [root] if root in running else []
    found += [key[0] for key, process in known.items() if process.alive and key[0] != root]
    below: dict[int, list[int]] = {}
    for pid, (parent, *_) in running.items():
        below.setdefault(parent, []).append(pid)
    seen: set[int] = set()
    while found:
        pid = found.pop()
        if pid in seen:
            continue
        seen.add(pid)
        found += below.get(pid, [])
        parent, _, own, waited = running[pid]
        # The first parent is kept: that of an orphan is the system's.
        process = known.setdefault(keys[pid], Process(None if pid == root else keys.get(parent), own, waited))
        process.own, process.waited, process.alive = own, waited, True


def spent(known: dict[Key, Process]) -> float:
    """Seconds of all processes, each once.

    A process that has ended counts with what its parent was told of it, or where the parent does not ask (Ray's
    raylet), as it was last seen.
    """
    children: dict[Key | None, list[Key]] = {}
    for key, process in known.items():
        children.setdefault(process.parent, []).append(key)

    def total(key: Key) -> float:
        living = sum(total(child) for child in children.get(key, ()) if known[child].alive)
        ended = sum(total(child) for child in children.get(key, ()) if not known[child].alive)
        return known[key].own + max(known[key].waited, ended) + living

    return sum(total(key) for key in children.get(None, ()))


def _running() -> dict[int, tuple[int, int, float, float]]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            user, system, waited_user, waited_system = map(int, fields[11:15])
            times = (user + system) / _TICKS, (waited_user + waited_system) / _TICKS
            found[int(entry.name)] = (int(fields[1]), int(fields[19]), *times)
    return found


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
