#!/usr/bin/env python
"""Measure the order of an epoch: Marey's plan beside PyTorch's sampler, from ten thousand to a hundred million rows.

    python jobs/bench_plan.py
    python jobs/bench_plan.py rows=[1000000] batch=4096

--help lists the settings and explains the rows.
"""

import source_root  # noqa: F401
from marey.bench import plan

if __name__ == "__main__":
    plan.main()
