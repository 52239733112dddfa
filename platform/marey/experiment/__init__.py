"""Experiments as data: one frozen type for each verb. A job file makes one; words on the command line change it."""

from marey.experiment.description import Description
from marey.experiment.fleet import FleetConfig, TrainingFleet
from marey.experiment.preparation import Preparation
from marey.experiment.scoring import Evaluation, Prediction
from marey.experiment.sweep import Sweep
from marey.experiment.training import Training, ValidationConfig

__all__ = [
    "Description",
    "Evaluation",
    "FleetConfig",
    "Prediction",
    "Preparation",
    "Sweep",
    "Training",
    "TrainingFleet",
    "ValidationConfig",
]
