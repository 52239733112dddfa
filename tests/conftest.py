"""What tests share: the cluster, tiny models, tables of generated videos; and what could not run, said at the end."""

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, of which each would take all cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Otherwise a cluster of two CPUs ends all idle processes after a second, and every task starts one anew.
os.environ.setdefault("RAY_num_workers_soft_limit", "6")

# Ray reads these when it is first used in a process, and then no more: they must be there from the start.
TOKEN = Path(tempfile.mkdtemp(prefix="marey-token-")) / "token"
atexit.register(shutil.rmtree, TOKEN.parent, ignore_errors=True)
TOKEN.touch(mode=0o600)
TOKEN.write_text(secrets.token_hex(32))
os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(TOKEN), "RAY_USAGE_STATS_ENABLED": "0"})

# The S3 server of the tests takes any name: nobody's real credentials are used, and no machine is asked for its role.
os.environ.update({"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"})

# Shapes in annotations are checked in tests, and only here.
_hook = install_import_hook(["marey.nn", "marey.backbones", "marey.recipes"], "beartype.beartype")


@pytest.fixture(scope="session")
def cluster() -> Iterator["object"]:
    """The one Ray cluster of the session: two CPUs, a dashboard that takes jobs, private to it."""
    from marey.launch.local_cluster import LocalCluster

    with LocalCluster(cpus=2, token=TOKEN) as started:
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that waited in vain for a job tells what the jobs said."""
    report = yield
    if report.failed and call.when == "call" and "cluster" in item.funcargs:
        logs = (item.funcargs["cluster"].folder / "session_latest/logs").glob("job-driver-*.log")
        for log in sorted(log for log in logs if log.stat().st_mtime > call.start):
            report.sections.append((log.name, log.read_text(errors="replace")[-4000:]))
    return report


@pytest.fixture(scope="session")
def ray_cluster(cluster) -> Iterator[None]:
    """This process joined to the session's cluster."""
    import ray

    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests")])
    environment = {"env_vars": {"PYTHONPATH": path}}
    ray.init(f"127.0.0.1:{cluster.port}", runtime_env=environment, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Models so small are slower on several, and much slower where other processes compute beside them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def store() -> Iterator["object"]:
    """An S3 server."""
    from store import Store

    started = Store()
    yield started
    started.close()


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Three small generated videos of moving shapes."""
    from videos import moving_square, write_video

    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("one.mp4", "two.mp4", "three.mp4")):
        write_video(folder / name, moving_square(40, 80, 96, seed=number))
    return folder


@pytest.fixture(scope="session")
def table(videos, tmp_path_factory):
    """A clip table of `videos`."""
    from marey.clips.datasets import find_sources
    from marey.clips.prepare import prepare_all
    from marey.clips.storage import ClipStorage
    from marey.clips.table import open_table

    path = tmp_path_factory.mktemp("tables") / "three"
    prepare_all(find_sources(videos), ClipStorage(max_seconds=1.0), path)
    return open_table(path)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """A clip table of the eight classes of motion, six videos each, in three splits."""
    from marey.clips.datasets import find_sources
    from marey.clips.motion_shapes import write_motion_shapes
    from marey.clips.prepare import prepare_all
    from marey.clips.storage import ClipStorage
    from marey.clips.table import open_table

    folder = tmp_path_factory.mktemp("labelled")
    write_motion_shapes(folder / "videos", per_class=6, size=32)
    prepare_all(find_sources(folder / "videos"), ClipStorage(short_side=32), folder / "table")
    return open_table(folder / "table")
