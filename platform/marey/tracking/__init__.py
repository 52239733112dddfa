"""Where a run's numbers and pictures go: JSON lines beside the run always, MLflow for looking and comparing."""
