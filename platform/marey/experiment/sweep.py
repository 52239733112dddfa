"""A search over settings: many trainings, each with its own values for some of them."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from marey.config import Config, check_path, override_pairs
from marey.errors import ConfigError
from marey.experiment.training import Training

Kind = Literal["choice", "uniform", "log_uniform", "integer"]
KINDS = ("choice", "uniform", "log_uniform", "integer")


class Sweep(Config):
    """How a space of settings is searched."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """The sweep's name; a sweep of that name goes on where it stopped. Default: a fresh one."""
    job: str | None = None
    """Job file whose training is tuned, e.g. pretrain_videomae; none: the one of this file."""
    algorithm: Literal["random", "grid", "tpe"] = "random"
    """random; grid: every combination of choices; tpe: Optuna's tree-structured Parzen estimator."""
    trials: int = Field(8, gt=0)
    """Trainings in all (grid: of each combination)."""
    metric: str = "top1"
    """What is compared, at its best: a metric of the validation (top1, mean_class_accuracy, loss), or loss."""
    scheduler: Literal["none", "asha"] = "none"
    """asha: trials that fall behind are stopped early (Li et al. 2020)."""
    grace: int = Field(1, gt=0)
    """asha: reports (validations, or checkpoints without one) that every trial may make."""
    reduction: int = Field(3, gt=1)
    """asha: one of so many trials goes on after each round."""
    concurrent: int | None = Field(None, gt=0)
    """Trials at a time; default: as many as the cluster has room for."""
    seed: int = Field(0, ge=0)
    """Seeds what is drawn."""

    @property
    def lowest(self) -> bool:
        """Whether a lower value of the metric is better."""
        return self.metric.endswith("loss")


class Dimension(NamedTuple):
    """One setting of a search: ``values`` are the choices, or (lowest, highest) of a range."""

    path: str
    kind: Kind
    values: tuple[Any, ...]


def read_space(search: Mapping[str, Any], training: Training) -> list[Dimension]:
    """A search as plain data, checked against the settings that it is over; `ConfigError` names path and value.

    {"optim.base_lr": {"log_uniform": [1e-4, 1e-2]},      # uniform, integer likewise; integer includes both ends
     "backbone": ["r3d_18", "videomae_v2_tiny_16x224"],   # a list: a choice
     "recipe.label_smoothing": {"choice": [0.0, 0.1]}}
    """
    if not search:
        raise ConfigError("search: empty; name settings and their values, e.g. search: {optim.base_lr: [1e-3, 1e-2]}")
    dimensions = [_dimension(path, value) for path, value in search.items()]
    for dimension in dimensions:
        check_path(Training, dimension.path, training)
        for value in dimension.values:
            override_pairs(training, [(dimension.path, value)])
    return dimensions


def _dimension(path: str, value: Any) -> Dimension:
    if isinstance(value, (list, tuple)):
        value = {"choice": value}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(f"search.{path}={value!r}: give a list of values, or one of {_shapes()}")
    kind, values = next(iter(value.items()))
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KINDS)}"
        raise ConfigError(f"search.{path}: no such kind {kind!r}; {hint}")
    if not isinstance(values, (list, tuple)) or not values:
        raise ConfigError(f"search.{path}.{kind}={values!r}: a list is needed, e.g. {_shapes()}")
    if kind != "choice":
        _check_range(f"search.{path}.{kind}", kind, values)
    return Dimension(path, kind, tuple(values))


def _check_range(path: str, kind: str, values: Any) -> None:
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != 2 or len(values) != 2 or not numbers[0] < numbers[1]:
        raise ConfigError(f"{path}={list(values)}: two numbers are needed, the lowest and the highest")
    if kind == "log_uniform" and numbers[0] <= 0:
        raise ConfigError(f"{path}={list(values)}: a logarithm needs numbers above 0")
    if kind == "integer" and any(int(number) != number for number in numbers):
        raise ConfigError(f"{path}={list(values)}: whole numbers are needed")


def _shapes() -> str:
    return "{log_uniform: [1e-4, 1e-2]}, {uniform: [0, 1]}, {integer: [2, 8]}, {choice: [a, b]}"
