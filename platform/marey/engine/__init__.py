"""The training loop and what it stands on: strategies, optimiser, schedule, checkpoints, events. No Ray, no MLflow."""
