#!/usr/bin/env python
"""Measure what faults cost: a training whose workers are killed, and how much of its time still counts.

    python jobs/bench_goodput.py
    python jobs/bench_goodput.py between=120 steps=3000 every=40

--help lists the settings and explains the figures.
"""

import source_root  # noqa: F401
from marey.bench import goodput

if __name__ == "__main__":
    goodput.main()
