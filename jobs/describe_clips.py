#!/usr/bin/env python
"""Describe a clip table: a data card with counts, lengths, look-alikes, leaks between splits and a contact sheet.

    ray job submit --working-dir . -- python jobs/describe_clips.py table="$HOME/marey/tables/mine"

Writes card.html into the table, one file that any browser opens, and records it in MLflow as a data set.
"""

import source_root  # noqa: F401
from marey.experiment import Description
from marey.launch import launch

description = Description()

if __name__ == "__main__":
    launch(description)
