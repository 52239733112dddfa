"""What each worker may use, derived from the cluster; what would wait for ever is refused before it starts."""

import math
from dataclasses import dataclass
from pathlib import Path

from marey.errors import ConfigError
from marey.experiment.fleet import FleetConfig
from marey.fleet.cluster import Cluster, refuse

SMALLEST_SHARE = 0.25  # of a CPU: below it workers and feed would starve each other


@dataclass(frozen=True)
class Shares:
    """Resources of one worker. The feed's read tasks take none: they wait for the disk, decoding is the worker's."""

    cpus: float
    gpus: int

    def for_ray(self) -> dict[str, float]:
        """As Ray writes it."""
        return {"CPU": self.cpus, **({"GPU": float(self.gpus)} if self.gpus else {})}


def share_out(fleet: FleetConfig, results: Path, cluster: Cluster, decode_actors: int = 0) -> Shares:
    """Shares for ``fleet.workers`` workers; `ResourceError` with the numbers and the holders if they do not fit.

    ``decode_actors``: of one CPU, beside each worker.
    """
    workers = fleet.workers
    if len(cluster.hosts) > 1 and fleet.storage == "local":
        raise ConfigError(
            f"fleet.storage=local, but the cluster has {len(cluster.hosts)} hosts ({', '.join(cluster.hosts)}): "
            f"a worker on another host would not see {results}; put results and table on a path that all "
            "hosts share and say fleet.storage=shared"
        )
    gpus = 1 if wants_gpu(fleet, cluster) else 0
    if gpus and cluster.free_gpus < workers:
        raise refuse(f"fleet.workers={workers} need {workers} GPUs, {cluster.free_gpus:g} are free", cluster)
    decoders = workers * decode_actors
    cpus = fleet.cpus_per_worker or even_share(max(0.0, cluster.free_cpus - decoders), workers)
    if cpus * workers + decoders > cluster.free_cpus + 1e-6 or cpus < SMALLEST_SHARE:
        needed = max(cpus, SMALLEST_SHARE) * workers + decoders
        beside = f" with fleet.decode_actors={decode_actors} for each" if decoders else ""
        raise refuse(f"fleet.workers={workers}{beside} need {needed:g} CPUs, {cluster.free_cpus:g} are free", cluster)
    return Shares(cpus, gpus)


def wants_gpu(fleet: FleetConfig, cluster: Cluster) -> bool:
    """Whether each worker gets a GPU."""
    return fleet.device == "gpu" or (fleet.device == "auto" and cluster.gpus >= fleet.workers)


def even_share(free: float, workers: int) -> float:
    """Whole CPUs where there are enough, else equal parts of what is free (in hundredths, which Ray adds exactly)."""
    share = free / workers
    return float(math.floor(share)) if share >= 1 else math.floor(share * 100) / 100
