"""A small Ray cluster for the session."""

import os
from collections.abc import Iterator

import pytest

from videos import REPOSITORY


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    path = os.pathsep.join([str(REPOSITORY / "platform"), str(REPOSITORY / "tests")])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 << 20,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield
    ray.shutdown()
