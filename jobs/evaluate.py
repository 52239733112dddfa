#!/usr/bin/env python
"""Evaluate a fine-tuned model: every view of every labelled clip once, on any number of workers.

    ray job submit --working-dir . -- python jobs/evaluate.py model=RUN
    ray job submit --working-dir . -- python jobs/evaluate.py model=RUN views.temporal=5 views.spatial=3 fleet.workers=4

RUN is a run's name or folder, a checkpoint, or a file of weights (with backbone=NAME and table=TABLE). Beside the run
lie scores.parquet (the probabilities of every view, from which any metric can be computed later), classes.csv and
summary.json. The default grid is VideoMAE's for Kinetics, 5 clips × 3 crops.
"""

import source_root  # noqa: F401
from marey.clips.sample import ViewConfig
from marey.experiment import Evaluation
from marey.launch import launch

evaluation = Evaluation(views=ViewConfig(temporal=5, spatial=3))

if __name__ == "__main__":
    launch(evaluation)
