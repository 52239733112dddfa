"""A search as plain data, checked before anything starts."""

import pytest

from marey.backbones.zoo import configure
from marey.errors import ConfigError, ResourceError
from marey.experiment import Sweep, Training, TrainingFleet
from marey.experiment.sweep import read_space
from marey.recipes.supervised import SupervisedConfig

TRAINING = Training(backbone=configure("videomae_v2_tiny_16x224"), recipe=SupervisedConfig())


def test_ranges_and_choices_are_read_under_the_paths_that_settings_have():
    search = {
        "optim.base_lr": {"log_uniform": [1e-4, 1e-2]},
        "backbone": ["r3d_18", "hiera_tiny_16x224"],
        "batch": {"integer": [8, 16]},
    }
    space = read_space(search, TRAINING)
    assert [one.path for one in space] == list(search)
    assert [one.kind for one in space] == ["log_uniform", "choice", "integer"]
    assert space[1].values == ("r3d_18", "hiera_tiny_16x224")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({}, "search: empty"),
        ({"optim.bas_lr": [1, 2]}, "did you mean 'optim.base_lr'"),
        ({"optim.base_lr": {"loguniform": [1, 2]}}, "did you mean 'log_uniform'"),
        ({"optim.base_lr": {"uniform": [2, 1]}}, "the lowest and the highest"),
        ({"optim.base_lr": {"log_uniform": [0, 1]}}, "above 0"),
        ({"batch": {"integer": [8.5, 16]}}, "whole numbers"),
        ({"optim.base_lr": 0.1}, "give a list of values"),
        ({"optim.base_lr": [0.1, -1.0]}, "optim.base_lr=-1.0"),
        ({"backbone": ["r3d_18", "r3d_81"]}, "did you mean"),
    ],
)
def test_a_mistake_is_told_with_path_value_and_what_is_allowed(search, message):
    with pytest.raises(ConfigError, match=message):
        read_space(search, TRAINING)


def test_as_many_trials_run_at_a_time_as_there_is_room_for():
    from marey.fleet.cluster import Cluster
    from marey.fleet.tune import num_trials, plan_trials

    def host(cpus: float) -> Cluster:
        return Cluster(cpus=cpus, gpus=0, free_cpus=cpus, free_gpus=0, hosts=("here",))

    concurrent, shares = plan_trials(Sweep(), TrainingFleet(workers=2), 4, host(2))
    assert (concurrent, shares.cpus) == (1, 0.99)
    concurrent, shares = plan_trials(Sweep(), TrainingFleet(workers=2), 4, host(9))
    assert concurrent == 4
    assert concurrent * (2 * shares.cpus + 0.01) <= 9
    concurrent, shares = plan_trials(Sweep(), TrainingFleet(workers=2, decode_actors=1), 4, host(9))
    assert (concurrent, shares.cpus) == (2, 1.0)
    concurrent, shares = plan_trials(Sweep(concurrent=2), TrainingFleet(workers=2), 4, host(2))
    assert (concurrent, shares.cpus) == (2, 0.49)
    with pytest.raises(ResourceError, match="need"):
        plan_trials(Sweep(concurrent=4), TrainingFleet(workers=4), 4, host(2))
    with pytest.raises(ConfigError, match=r"fleet\.workers=0"):
        plan_trials(Sweep(), TrainingFleet(workers=0), 4, host(2))
    space = read_space({"backbone": ["r3d_18", "mc3_18"], "seed": [0, 1, 2]}, TRAINING)
    assert num_trials(Sweep(algorithm="grid"), space) == 6
    with pytest.raises(ConfigError, match="a list of values, not a range"):
        num_trials(Sweep(algorithm="grid"), read_space({"batch": {"integer": [8, 16]}}, TRAINING))
