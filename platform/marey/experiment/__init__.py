"""Experiments as data: one frozen type for each verb. A job file makes one; words on the command line change it."""

from marey.experiment.preparation import Preparation
from marey.experiment.training import FleetConfig, Training

__all__ = ["FleetConfig", "Preparation", "Training"]
