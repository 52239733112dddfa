#!/usr/bin/env python
"""Measure augmentation: Marey beside torchvision v2 and Pillow, in processor time a clip, results checked.

    make bench-env                                   # the peers, in an environment of their own
    python jobs/bench_augment.py
    python jobs/bench_augment.py video="$PWD/film.mp4" boxes=random_resized

--help lists the settings and explains the rows.
"""

import source_root  # noqa: F401
from marey.bench import augment

if __name__ == "__main__":
    augment.main()
