#!/usr/bin/env python
"""Measure how long training waits for a checkpoint: Marey's beside torch.save and torch.distributed.checkpoint.

    python jobs/bench_checkpoint.py
    python jobs/bench_checkpoint.py backbone=videomae_v2_large_16x224 folder=/mnt/shared rounds=3

--help lists the settings and explains the rows.
"""

import source_root  # noqa: F401
from marey.bench import checkpoint

if __name__ == "__main__":
    checkpoint.main()
