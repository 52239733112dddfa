"""The machine that a bench runs on: its name, and whether it had other work to do meanwhile."""

import os
import platform
import time
from pathlib import Path

_BUSY = 0.1
"""Share of a core that other work may take before a bench says so."""


def cpu_name() -> str:
    """The processor's model name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


class OtherWork:
    """Processor time that others took since this was made."""

    def __init__(self) -> None:
        self.start = self._now()

    def warning(self) -> str | None:
        """What to tell the reader if others kept the machine busy; None if they did not, or it cannot be told."""
        if (cores := self.cores()) < _BUSY:
            return None
        return (
            f"other work took {cores:.1f} of {os.cpu_count()} cores meanwhile, which disturbs wall times;\n"
            "clock=cpu threads=1 is steadier"
        )

    def cores(self, children: float = 0.0) -> float:
        """Cores that others kept busy; ``children``: seconds of processor time of this process's own children."""
        others, wall = (now - then for now, then in zip(self._now(), self.start, strict=True))
        return (others - children) / max(wall, 1e-9)

    def _now(self) -> tuple[float, float]:
        """(seconds of others, wall seconds)."""
        return _machine_seconds() - time.process_time(), time.perf_counter()


def _machine_seconds() -> float:
    """Seconds that all cores have worked since the machine started; this process's own where no one tells."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return time.process_time()
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
