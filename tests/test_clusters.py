"""The descriptions of clusters are what the programs that read them accept."""

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from submitting import ROOT, SMALL, checkpoints

CLUSTERS = ROOT / "clusters"
LAUNCHER = [CLUSTERS / "local.yaml", CLUSTERS / "aws.yaml"]
RAYJOB = ROOT / "tests" / "schemas" / "rayjob.json.gz"


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_a_description_fits_rays_schema(path: Path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_a_misspelt_key_would_be_found(path: Path):
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load(path.read_text())
    config["max_wrokers"] = 1
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(config)


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_the_dashboard_listens_to_its_machine_only_and_asks_for_a_token(path: Path):
    text = path.read_text()
    assert "--dashboard-host=127.0.0.1" in text
    assert "RAY_AUTH_MODE=token" in text


def closed(schema: Any) -> Any:
    """A schema that refuses unknown keys, which Kubernetes drops in silence."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    listed = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    if listed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


@pytest.fixture(scope="module")
def rayjob() -> jsonschema.Draft202012Validator:
    schema = json.loads(gzip.decompress(RAYJOB.read_bytes()))["schema"]
    whole = closed(schema)
    whole["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(whole)


def test_the_job_on_kubernetes_fits_kuberays_schema(rayjob):
    job = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())
    assert [error.message for error in rayjob.iter_errors(job)] == []
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"


POD = ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec")


@pytest.mark.parametrize("place", [("spec", "shutDownAfterJobFinishes"), (*POD, "volume")])
def test_a_key_that_kubernetes_would_drop_is_found(rayjob, place):
    job = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())
    inner = job
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = True
    assert any(place[-1] in error.message for error in rayjob.iter_errors(job))


def test_the_jobs_words_on_kubernetes_are_settings(monkeypatch):
    import runpy
    import shlex

    from marey.config import override

    entrypoint = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())["spec"]["entrypoint"]
    _, script, *words = shlex.split(entrypoint)
    monkeypatch.syspath_prepend(ROOT / "jobs")
    override(runpy.run_path(str(ROOT / script.removeprefix("/marey/")))["training"], words)


# Two "nodes" on one machine: a shim drops Slurm's options; each node has one CPU and a temporary folder of its own,
# because nodes that share one delete each other's copies of the repository.
SRUN = """
SMALL="--num-cpus=1 --object-store-memory=100000000 --dashboard-agent-listen-port=0"
while [ "${1#--}" != "$1" ]; do shift; done
case "$*" in
    *" --head "*) exec "$@" $SMALL --temp-dir="$MAREY_TEST_TEMP" --ray-client-server-port=30777;;
    *"ray start"*) exec "$@" $SMALL --temp-dir="$MAREY_TEST_TEMP-two";;
    *) echo 127.0.0.1;;
esac
"""
SHIMS = {"scontrol": 'echo "$3" | tr , "\\n"', "srun": SRUN}


def free_port() -> int:
    """A port whose partner 5000 above, for the dashboard, is free as well."""
    for port in range(23000, 25000):
        with socket.socket() as one, socket.socket() as other:
            if one.connect_ex(("127.0.0.1", port)) and other.connect_ex(("127.0.0.1", port + 5000)):
                return port
    raise AssertionError("no free ports")


@pytest.mark.slow
def test_the_script_for_slurm_trains_on_two_nodes_and_leaves_nothing_behind(table, tmp_path: Path):
    shims, temporary = tmp_path / "bin", Path("/tmp") / f"marey-slurm-test-{os.getpid()}"
    shims.mkdir()
    for name, body in SHIMS.items():
        (shims / name).write_text(f"#!/bin/bash\n{body}\n")
        (shims / name).chmod(0o755)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))},
        "PATH": f"{shims}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "one,two",
        "MAREY_RAY_PORT": str(free_port()),
        "MAREY_TEST_TEMP": str(temporary),
        "MAREY_ENV": str(Path(sys.executable).parent.parent),
    }
    words = [*SMALL, f"table={table.path}", f"results={tmp_path}", "fleet.workers=2", "epochs=1", "name=slurm"]
    words += ["fleet.cpus_per_worker=1", "fleet.storage=shared"]
    try:
        ended = subprocess.run(
            ["bash", "clusters/slurm.sh", "jobs/pretrain_videomae.py", *words],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
    finally:
        subprocess.run(["pkill", "-f", str(temporary)], check=False)
        for folder in (temporary, temporary.with_name(f"{temporary.name}-two")):
            shutil.rmtree(folder, ignore_errors=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    # Each node has one CPU: a worker that takes a whole one shares its node with no other.
    assert "workers  2 × {'CPU': 1.0} on 1 host(s), 2 CPUs" in ended.stdout
    assert checkpoints(tmp_path, "slurm")
    assert not list(ROOT.glob(".marey-slurm-*"))
