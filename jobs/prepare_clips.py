#!/usr/bin/env python
"""Prepare a clip table from a folder or a list of videos.

    ray job submit --working-dir . -- python jobs/prepare_clips.py videos="$PWD/videos" table="$PWD/table"

Broken videos are listed with a reason in the table's quarantine. A preparation that was stopped goes on where it was.
"""

import source_root  # noqa: F401
from marey.experiment import Preparation
from marey.launch import launch

preparation = Preparation()

if __name__ == "__main__":
    launch(preparation)
