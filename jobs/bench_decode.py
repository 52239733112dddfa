#!/usr/bin/env python
"""Measure reading clips: Marey's storages beside torchcodec and decord, in processor time, frames checked.

    make bench-env                                   # the peers, in an environment of their own
    python jobs/bench_decode.py
    python jobs/bench_decode.py video="$PWD/film.mp4" strides=[1,4,8]

--help lists the settings and explains the rows.
"""

import source_root  # noqa: F401
from marey.bench import decode

if __name__ == "__main__":
    decode.main()
