#!/usr/bin/env python
"""Measure training steps of VideoMAE V2 and Hiera on one GPU beside the published code's choices: speed, MFU, memory.

    python jobs/bench_gpu.py
    python jobs/bench_gpu.py models=[videomae_v2_giant] tasks=[pretrain] compile=true jsonl="$PWD/gpu.jsonl"
    python jobs/bench_gpu.py models=[videomae_v2_tiny,hiera_tiny] frames=4 crop=96 rounds=1 device=cpu

Needs no Ray. Without a GPU it runs on the CPU, which the last command does in a minute; --help lists the settings and
explains the rows.
"""

import source_root  # noqa: F401
from marey.bench import gpu

if __name__ == "__main__":
    gpu.main()
