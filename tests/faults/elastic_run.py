"""Run by `test_elastic`: a training on machines that come and go, one lost, one new, one taken away with notice.

    python tests/faults/elastic_run.py TABLE RESULTS

A line is JSON: the numbers of workers that were seen, and where it was stopped.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import ray
import yaml
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from marey.clips.table import open_table
from marey.engine.events import Stop
from marey.fleet import room, train
from marey.fleet.tracker import RemoteTracker
from marey.tracking.base import RunDescription
from marey.tracking.journal import read_points
from marey.tracking.jsonl import JsonlTracker
from submitting import ROOT, until
from tiny_training import elastic

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


class Paced(RemoteTracker):
    """Steps of a tenth of a second: there are not many while machines come and go."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        time.sleep(0.1)
        super().metrics(step, values)


def main(table_path: str, results: str) -> None:
    room.REPLACEMENT_S, room.GROW_AFTER_S = 2.0, 1.0
    Path("/tmp/ray").mkdir(exist_ok=True)  # Ray's test cluster notes its address there, and makes no folder
    # A folder of its own, so that nobody else's `ray.init` finds it; short, for the paths of sockets.
    node = {**NODE, "temp_dir": tempfile.mkdtemp(prefix="marey-", dir="/tmp")}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False})
    first = cluster.add_node(**node)
    second = cluster.add_node(**node)
    ray.init(cluster.address, runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}, log_to_driver=False)

    training = elastic().replace(results=results)
    directory = Path(results) / "runs" / "elastic"
    shares, _ = train.plan_shares(training)
    tracker = Paced(JsonlTracker())
    tracker.start(RunDescription("elastic", directory))
    stop = threading.Event()
    ended: list[train.Outcome | None] = []

    def work() -> None:
        asked = lambda: Stop.SIGTERM if stop.is_set() else Stop.GO_ON  # noqa: E731
        ended.append(train.train(training, open_table(Path(table_path)), directory, tracker, shares, asked=asked))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def step() -> int:
        return max((point.step for point in read_points(directory)), default=0)

    def goes_on(workers: int) -> None:
        """Wait until so many workers have done some steps."""
        until(lambda: held() == workers, 280)
        before = step()
        until(lambda: step() > before + 10 or not thread.is_alive(), 280)
        print(f"{workers} workers at step {step()}", flush=True)
        seen.append(held())

    seen: list[int] = []
    goes_on(2)
    crowd = [crowded(one.node_id) for one in (first, second)]
    goes_on(2)
    assert list(Path(node["temp_dir"]).rglob("ray_spilled_objects*/*")), "the object stores must have been full"
    del crowd
    cluster.remove_node(second, allow_graceful=False)
    goes_on(1)
    third = cluster.add_node(**node)
    goes_on(2)
    notice = subprocess.Popen(["sh", "-c", before_a_pod_stops(cluster.address, third.node_id)])
    goes_on(1)
    notice.kill()  # it waits for all workers of the machine to end, and the other node's are on it too
    stop.set()
    thread.join(280)
    tracker.end("killed", "stopped")
    print(json.dumps({"workers": seen, "stop": str(ended[0].stop), "step": ended[0].step}), flush=True)
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(node["temp_dir"], ignore_errors=True)


def crowded(node: str) -> list[ray.ObjectRef]:
    """More than the object store of ``node`` holds, made there."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    make = ray.remote(lambda: np.ones(30_000_000, np.uint8)).options(num_cpus=0, scheduling_strategy=there)
    made = [make.remote() for _ in range(4)]
    ray.wait(made, num_returns=len(made), timeout=280, fetch_local=False)
    return made


def before_a_pod_stops(address: str, node: str) -> str:
    """What Kubernetes runs in a worker's pod before it stops it; of the nodes on this machine for ``node``."""
    job = yaml.safe_load((ROOT / "clusters/kuberay.yaml").read_text())
    [workers] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    [container] = workers["template"]["spec"]["containers"]
    *_, command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command.startswith("ray drain-node ")
    return command.replace(
        "ray drain-node", f"{Path(sys.executable).parent}/ray drain-node --address {address} --node-id {node}"
    )


def held() -> int:
    """Workers that have their place."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = sum(node["Resources"].get("CPU", 0) for node in nodes)
    return round(total - ray.available_resources().get("CPU", 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
