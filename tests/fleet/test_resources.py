"""Shares are derived from the cluster; what would wait for ever is refused with the numbers."""

from pathlib import Path

import pytest

from marey.errors import ConfigError, ResourceError
from marey.experiment import FleetConfig
from marey.fleet import cluster, resources
from marey.fleet.cluster import Cluster


def share_out(found: Cluster, decode_actors: int = 0, **fleet) -> resources.Shares:
    return resources.share_out(FleetConfig(**fleet), Path("/results"), found, decode_actors)


def host(cpus: float, gpus: float = 0, free: float | None = None, hosts: tuple[str, ...] = ("one",)) -> Cluster:
    return Cluster(cpus, gpus, cpus if free is None else free, gpus, hosts)


@pytest.fixture(autouse=True)
def _holders(request, monkeypatch):
    if "ray_cluster" not in request.fixturenames:
        monkeypatch.setattr(cluster, "holders", lambda: ["actor Greedy (process 7) of job 01: {'CPU': 2}"])


@pytest.mark.parametrize(
    ("cpus", "workers", "share"), [(2, 1, 2.0), (2, 2, 1.0), (2, 4, 0.5), (3, 2, 1.0), (2, 3, 0.66), (16, 4, 4.0)]
)
def test_cpus_are_shared_out(cpus, workers, share):
    assert share_out(host(cpus), workers=workers).cpus == share


def test_actors_that_decode_have_their_cpus_and_leave_some_to_the_workers():
    assert share_out(host(8), workers=2, decode_actors=1).cpus == 3.0
    assert share_out(host(2), workers=1, decode_actors=1).cpus == 1.0
    with pytest.raises(ResourceError, match=r"workers=2 with fleet.decode_actors=1 for each need 2.5 CPUs, 2 are free"):
        share_out(host(2), workers=2, decode_actors=1)
    with pytest.raises(ResourceError, match=r"need 8 CPUs, 6 are free"):
        share_out(host(6), workers=2, decode_actors=1, cpus_per_worker=3)


def test_each_worker_gets_a_gpu_where_there_are_enough():
    shares = share_out(host(8, gpus=2), workers=2)
    assert shares.for_ray() == {"CPU": 4.0, "GPU": 1.0}


def test_too_few_gpus_are_refused():
    with pytest.raises(ResourceError, match="need 4 GPUs, 2 are free"):
        share_out(host(8, gpus=2), workers=4, device="gpu")


def test_what_others_hold_is_refused_and_they_are_named():
    with pytest.raises(ResourceError, match=r"need 2 CPUs, 0 are free(.|\n)*Greedy"):
        share_out(host(2, free=0), workers=2, cpus_per_worker=1)


def test_local_storage_on_two_hosts_is_refused():
    with pytest.raises(ConfigError, match=r"fleet\.storage=shared"):
        share_out(host(4, hosts=("one", "two")), workers=2)
    assert share_out(host(4, hosts=("one", "two")), workers=2, storage="shared").cpus == 2


@pytest.mark.slow
def test_who_holds_a_real_clusters_cpus_is_told(ray_cluster):
    import ray

    class Greedy:
        def here(self) -> bool:
            return True

    holder = ray.remote(num_cpus=2)(Greedy).remote()
    assert ray.get(holder.here.remote())
    with pytest.raises(ResourceError, match=r"need 0.25 CPUs, 0 are free(.|\n)*Greedy"):
        share_out(cluster.settled(seconds=0), workers=1)
    ray.kill(holder)
    assert cluster.settled().free_cpus == 2
