"""Using what was trained: opening a run, a checkpoint or a file of weights, and predicting with it."""
