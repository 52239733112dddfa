"""What can go wrong for a user, as one small tree.

MareyError
├── ConfigError       a setting: unknown key, bad value, combination that cannot run
│   └── RunError      a run by that name exists and does not fit what was asked
├── ClipError         a video, a list of videos, a clip table
├── WeightsError      a state dict that does not fit a model
├── CheckpointError   a checkpoint that is missing, damaged or of another format
├── ResourceError     the cluster cannot carry what was asked
└── TrainingError     a run that cannot go on (a loss that is not finite)

Every message says what is wrong, the value at fault, what is allowed and what to do. Mistakes of our own are
plain ``assert`` statements, never one of these.
"""


class MareyError(Exception):
    """Base of every error that a user's input or machine can cause."""


class ConfigError(MareyError, ValueError):
    """A setting is unknown, has a value that is not allowed, or contradicts another one."""


class RunError(ConfigError):
    """A run of that name exists and differs from what was asked."""


class ClipError(MareyError):
    """A video, a list of videos or a clip table cannot be read or does not fit."""


class WeightsError(MareyError):
    """A state dict does not fit the model it is loaded into."""


class CheckpointError(MareyError):
    """A checkpoint is missing, damaged, or of a format this version does not know."""


class ResourceError(MareyError):
    """The cluster cannot carry what the settings ask for."""


class TrainingError(MareyError):
    """Training cannot go on, for example because the loss is not finite."""
