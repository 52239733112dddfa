#!/usr/bin/env python
"""Predict the classes of a table's or a folder's videos with a fine-tuned model.

    ray job submit --working-dir . -- python jobs/predict.py model=RUN table="$PWD/table"
    ray job submit --working-dir . -- python jobs/predict.py model=RUN videos="$PWD/videos" fleet.workers=4

The predictions go to a Parquet file with one line a video: the class, its probability, and those of all classes.
"""

import source_root  # noqa: F401
from marey.experiment import Prediction
from marey.launch import launch

prediction = Prediction()

if __name__ == "__main__":
    launch(prediction)
