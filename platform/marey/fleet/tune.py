"""A search on a cluster: Ray Tune decides what is tried and which trials go on; a trial is a whole training."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from marey.errors import ConfigError
from marey.experiment.fleet import TrainingFleet
from marey.experiment.sweep import Dimension, Sweep
from marey.fleet.cluster import Cluster, refuse
from marey.fleet.resources import SMALLEST_SHARE, Shares, even_share, wants_gpu

# Snapshots of the search: what a killed sweep goes on from. Small, so often.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

TRIAL_CPUS = 0.01  # of the process that starts a trial's workers and waits for them

Report = Callable[[dict[str, float]], None]
RunTrial = Callable[[str, dict[str, Any], list[Any], Report], None]


@dataclass(frozen=True)
class Trial:
    """One training of a search, and how it ended."""

    id: str
    values: dict[str, Any]
    state: Literal["finished", "stopped early", "failed"]
    metrics: dict[str, float]
    reason: str = ""


def plan_trials(sweep: Sweep, fleet: TrainingFleet, trials: int, cluster: Cluster) -> tuple[int, Shares]:
    """How many trials run at a time, and what each of their workers gets; `ResourceError` if not even one fits."""
    workers = fleet.workers
    if workers == 0:
        raise ConfigError("fleet.workers=0: trials run under Ray and need at least one worker each")
    gpus, beside = 1 if wants_gpu(fleet, cluster) else 0, fleet.decode_actors
    if gpus:
        fits = int(cluster.free_gpus // workers)
    else:
        fits = int((cluster.free_cpus - TRIAL_CPUS) // (workers * ((fleet.cpus_per_worker or 1.0) + beside)))
    if gpus and fits == 0:
        raise refuse(f"a trial of fleet.workers={workers} needs {workers} GPUs", cluster)
    concurrent = min(trials, sweep.concurrent or max(1, fits))
    usable = max(0.0, cluster.free_cpus - (TRIAL_CPUS + workers * beside) * concurrent)
    cpus = fleet.cpus_per_worker or even_share(usable, workers * concurrent)
    if cpus < SMALLEST_SHARE or cpus * workers * concurrent > usable + 1e-6:
        needed = ((max(cpus, SMALLEST_SHARE) + beside) * workers + TRIAL_CPUS) * concurrent
        own = f"{needed:g} CPUs, {TRIAL_CPUS:g} of each trial for itself"
        raise refuse(f"{concurrent} trials of fleet.workers={workers} need {own}", cluster)
    return concurrent, Shares(cpus, gpus)


def num_trials(sweep: Sweep, space: Sequence[Dimension]) -> int:
    """Trials in all."""
    if sweep.algorithm != "grid":
        return sweep.trials
    combinations = 1
    for dimension in space:
        if dimension.kind != "choice":
            raise ConfigError(f"search.{dimension.path}: sweep.algorithm=grid needs a list of values, not a range")
        combinations *= len(dimension.values)
    return combinations


def search(
    sweep: Sweep,
    space: Sequence[Dimension],
    concurrent: int,
    directory: Path,
    run_trial: RunTrial,
    say: Callable[[str], None] = print,
) -> list[Trial]:
    """Run the search to its end, going on with what ``directory`` holds of it; the trials in the order of their start.

    ``run_trial(id, values, callbacks, report)`` trains in a process of its own; it hands ``callbacks`` to Ray Train,
    through which its workers report, or reports itself. A trial that raises is a failed trial, not the sweep's end.
    """
    from ray import tune

    def trial(values: dict[str, Any]) -> None:
        from ray.tune.integration.ray_train import TuneReportCallback

        run_trial(tune.get_context().get_trial_id(), dict(values), [TuneReportCallback()], tune.report)

    trainable = tune.with_resources(trial, {"cpu": TRIAL_CPUS})
    place = str(directory / "tune")
    if tune.Tuner.can_restore(place):
        # The space again: what of it is not plain data does not survive on disk.
        tuner = tune.Tuner.restore(place, trainable=trainable, param_space=_param_space(sweep, space))
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=_param_space(sweep, space),
            tune_config=_tune_config(sweep, concurrent),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(directory), callbacks=[_teller(sweep, say)], verbose=0
            ),
        )
    results = tuner.fit()
    return [_trial(results[number], sweep) for number in range(len(results))]


def _param_space(sweep: Sweep, space: Sequence[Dimension]) -> dict[str, Any]:
    from ray import tune

    makers: dict[str, Callable[..., Any]] = {
        "choice": lambda *values: tune.grid_search(list(values)) if sweep.algorithm == "grid" else tune.choice(values),
        "uniform": tune.uniform,
        "log_uniform": tune.loguniform,
        "integer": lambda low, high: tune.randint(int(low), int(high) + 1),
    }
    return {dimension.path: makers[dimension.kind](*dimension.values) for dimension in space}


def _tune_config(sweep: Sweep, concurrent: int) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.basic_variant import BasicVariantGenerator

    metric, mode = f"best_{sweep.metric}", "min" if sweep.lowest else "max"
    if sweep.algorithm == "tpe":
        from ray.tune.search.optuna import OptunaSearch

        searcher: Any = ConcurrencyLimiter(OptunaSearch(seed=sweep.seed), max_concurrent=concurrent)
    else:
        searcher = BasicVariantGenerator(random_state=sweep.seed, max_concurrent=concurrent)
    asha = ASHAScheduler(grace_period=sweep.grace, reduction_factor=sweep.reduction, max_t=10**6)
    return tune.TuneConfig(
        metric=metric,
        mode=mode,
        search_alg=searcher,
        scheduler=asha if sweep.scheduler == "asha" else FIFOScheduler(),
        num_samples=1 if sweep.algorithm == "grid" else sweep.trials,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


def _teller(sweep: Sweep, say: Callable[[str], None]) -> Any:
    from ray.tune import Callback

    class Teller(Callback):
        """Lines of progress."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            say(f"trial {trial.trial_id} starts: {_told(trial.config)}")

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
        ) -> None:
            value = result.get(sweep.metric)
            if value is not None:
                share = 100 * result.get("progress", 0)
                say(f"trial {trial.trial_id} at {share:.0f} %: {sweep.metric} {value:.4f}")

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            # Ray calls this before it takes the trial itself for finished.
            ended = sum(one.is_finished() or one is trial for one in trials)
            say(f"trial {trial.trial_id} ends ({ended} of {len(trials)} begun have ended)")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            say(f"trial {trial.trial_id} failed")

    return Teller()


def _told(values: Mapping[str, Any]) -> str:
    return " ".join(f"{path}={f'{value:.4g}' if isinstance(value, float) else value}" for path, value in values.items())


def _trial(result: Any, sweep: Sweep) -> Trial:
    numbers = {key: float(value) for key, value in (result.metrics or {}).items() if isinstance(value, (int, float))}
    metrics = {key: value for key, value in numbers.items() if key.startswith("best_") or key in (sweep.metric, "step")}
    trial_id, values = Path(result.path).name, dict(result.config)
    if result.error is not None:
        lines = [line.strip() for line in str(result.error).splitlines() if line.strip()]
        return Trial(trial_id, values, "failed", metrics, lines[-1] if lines else repr(result.error))
    return Trial(trial_id, values, "finished" if numbers.get("progress", 0.0) >= 1 else "stopped early", metrics)
