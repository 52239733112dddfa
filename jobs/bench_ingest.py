#!/usr/bin/env python
"""Measure feeding a training: Marey's feeds beside a torch DataLoader, webdataset, litdata and mosaicml-streaming.

    make bench-env                                   # the peers, in an environment of their own
    python jobs/bench_ingest.py
    python jobs/bench_ingest.py videos="$PWD/videos" batch=16 rounds=5

--help lists the settings and explains the rows.
"""

import source_root  # noqa: F401
from marey.bench import ingest

if __name__ == "__main__":
    ingest.main()
