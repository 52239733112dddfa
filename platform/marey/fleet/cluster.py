"""Joining a Ray cluster, and what it has."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marey
from marey.errors import ResourceError

# Before ray is imported anywhere: read at import, and by the processes that Ray starts.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # otherwise every print of a worker comes twice
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "120")  # a busy machine imports for half a minute
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private import worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Cluster:
    """What a cluster has in all and free now."""

    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float
    hosts: tuple[str, ...]

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPUs ({self.free_gpus:g} free)" if self.gpus else ""
        return f"{len(self.hosts)} host(s), {self.cpus:g} CPUs ({self.free_cpus:g} free){gpus}"


def join(log_to_driver: bool = True, dashboard: bool = False) -> None:
    """Connect this process to the cluster of its job, of ``RAY_ADDRESS``, of this host, or to a new one on it.

    ``log_to_driver``: whether what workers print is printed here. ``dashboard``: whether a new cluster has Ray's: a
    dozen processes and 200 MiB. A sweep needs it: without, what a stopped trial held stays held.

    Workers get the sources of the running package with the job: they need its dependencies, not itself.
    """
    if ray.is_initialized():
        return
    package = Path(marey.__file__).parent
    environment = {"py_modules": [str(package)], "env_vars": {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}}
    ray.init(
        runtime_env=environment,
        log_to_driver=log_to_driver,
        include_dashboard=dashboard,
        logging_level=logging.WARNING,
    )
    if _started_here():  # nobody takes this machine away with notice
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def _started_here() -> bool:
    """Whether the cluster is of this process alone."""
    return bool(worker._global_node.is_head())


def has_dashboard() -> bool:
    """Whether the cluster has Ray's dashboard, and with it the service that tells its state. A driver is asked: Ray's
    workers do not know, and say yes."""
    return bool(worker.get_dashboard_url())


def say(line: str) -> None:
    """Tell the user, at once: a job's log is followed."""
    print(line, flush=True)


def describe() -> Cluster:
    """The cluster as it is now."""
    total, free = ray.cluster_resources(), ray.available_resources()
    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    return Cluster(
        cpus=total.get("CPU", 0.0),
        gpus=total.get("GPU", 0.0),
        free_cpus=free.get("CPU", 0.0),
        free_gpus=free.get("GPU", 0.0),
        hosts=tuple(sorted(hosts)),
    )


def settled(seconds: float = 10.0) -> Cluster:
    """The cluster once all of it is free, or as it is after ``seconds``: a job that ended lets go a little later."""
    deadline = time.monotonic() + seconds
    while (found := describe()).free_cpus < found.cpus and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def holders() -> list[str]:
    """Who holds CPUs or GPUs, one line each, as far as the cluster's state service tells."""
    from ray.util import state

    if not ray.is_initialized() or _started_here():
        return []
    if not has_dashboard():
        return ["(without a dashboard the cluster does not tell who holds them)"]
    try:
        here = ray.get_runtime_context().gcs_address  # otherwise it looks for clusters by itself, and may find two
        actors = state.list_actors(
            address=here, filters=[("state", "=", "ALIVE")], detail=True, timeout=5, raise_on_missing_output=False
        )
        groups = state.list_placement_groups(address=here, filters=[("state", "=", "CREATED")], detail=True, timeout=5)
    except Exception as error:  # the state service is an extra
        return [f"(the cluster does not tell who holds them: {str(error).splitlines()[0]})"]
    lines = [
        f"placement group {group.placement_group_id[:12]} of job {group.creator_job_id}: {_bundles(group.bundles)}"
        for group in groups
    ]
    for actor in actors:
        held = {
            key: value for key, value in (actor.required_resources or {}).items() if key in ("CPU", "GPU") and value
        }
        if held and not actor.placement_group_id:
            lines.append(f"actor {actor.class_name} (process {actor.pid}) of job {actor.job_id}: {held}")
    return lines


def _bundles(bundles: Any) -> str:
    held: dict[str, float] = {}
    for bundle in bundles or []:
        for key, value in bundle.get("unit_resources", {}).items():
            if key in ("CPU", "GPU"):
                held[key] = held.get(key, 0) + value
    return ", ".join(f"{value:g} {key}" for key, value in held.items())


def refuse(what: str, cluster: Cluster) -> ResourceError:
    """The error for something that would wait for ever."""
    held = holders()
    who = "\nheld by:\n" + "\n".join(f"  {line}" for line in held) if held else ""
    return ResourceError(f"{what}; the cluster has {cluster}{who}")


def beside_driver(body: type, *arguments: Any, **options: Any) -> Any:
    """An actor on this process's node, made of ``body``; it takes no CPU."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(body).options(num_cpus=0, scheduling_strategy=here, **options).remote(*arguments)
