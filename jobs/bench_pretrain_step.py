#!/usr/bin/env python
"""Measure the pre-training step of VideoMAE: masking and each optimisation side by side, in one table a model size.

    python jobs/bench_pretrain_step.py
    python jobs/bench_pretrain_step.py sizes=[small] rounds=1 jsonl="$PWD/steps.jsonl"

Uses the GPU if there is one; --help lists the settings and explains the rows.
"""

import source_root  # noqa: F401
from marey.bench import step

if __name__ == "__main__":
    step.main()
