#!/usr/bin/env python
"""Measure what the platform costs: a bare torch loop beside the full one, on the same model, batches and workers.

    python jobs/bench_overhead.py
    python jobs/bench_overhead.py workers=1 batch=4 rounds=5

--help lists the settings and explains the rows.
"""

import source_root  # noqa: F401
from marey.bench import overhead

if __name__ == "__main__":
    overhead.main()
