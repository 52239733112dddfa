"""Slurm's warning before its time limit: the script stops the job first, and the nodes once the job is gone."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from submitting import ROOT, until

# Stand-ins that note what they are called with. A node runs until it is told to end; the job until it is stopped.
HEAD = '#!/bin/bash\nnote() { echo "$*" >> "$CALLS"; }\n'
SRUN = """
case "$*" in
    *"ray start"*)
        case "$*" in *--head*) node=head;; *) node=workers;; esac
        note "$node started, stop wait $RAY_JOB_STOP_WAIT_TIME_S"
        trap 'note "$node ended"; exit 143' TERM
        sleep 1000 & wait;;
    *) echo 10.0.0.1;;
esac
"""
RAY = """
case "$1 $2" in
    "job submit") note "submitted: $*"; until [ -e "$CALLS.stop" ]; do sleep 0.05; done; note "job ended";;
    "job stop")
        note "stopped: $*"; sleep 0.3; touch "$CALLS.stop"
        until grep -q "job ended" "$CALLS"; do sleep 0.05; done;;
esac
"""
PROGRAMS = {
    "scontrol": 'echo "$3" | tr , "\\n"',
    "srun": SRUN,
    "ray": RAY,
    "python": 'case "$1" in -c) printf token;; -) cat > /dev/null;; esac',
}


def default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def started(tmp_path: Path):
    """The script on two nodes of stand-ins, once its job runs; and what they note."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f"{HEAD}{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "one,two",
        "MAREY_ENV": str(tmp_path),
    }
    script = ["bash", str(ROOT / "clusters/slurm.sh"), "jobs/pretrain_videomae.py", "name=mine"]
    process = subprocess.Popen(
        # A shell that ignores SIGINT from its start, as one does whose tests run in the background, cannot trap it.
        script, cwd=tmp_path, env=environment, start_new_session=True, preexec_fn=default_interrupt
    )  # fmt: skip
    until(lambda: calls.exists() and "submitted" in calls.read_text())
    yield process, calls
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_job_is_stopped_in_order_before_its_nodes_are(started, number: int, tmp_path: Path):
    process, calls = started
    assert list(tmp_path.glob(".marey-slurm-7-*/token"))
    os.kill(process.pid, number)  # --signal=B:TERM@120: the batch shell alone
    assert process.wait(60) == 143
    lines = calls.read_text().splitlines()
    assert {"head started, stop wait 60", "workers started, stop wait 60"} <= set(lines)
    order = [line.split(":")[0] for line in lines if "started" not in line]
    assert order[:3] == ["submitted", "stopped", "job ended"]
    assert sorted(order[3:]) == ["head ended", "workers ended"]
    [stopped] = [line for line in lines if line.startswith("stopped:")]
    assert stopped.endswith("--address http://10.0.0.1:25007 marey-7")
    assert not list(tmp_path.glob(".marey-slurm-*"))


def test_slurm_warns_before_its_limit_by_more_than_a_job_may_take_to_stop():
    text = (ROOT / "clusters/slurm.sh").read_text()
    [warning] = [line for line in text.splitlines() if line.startswith("#SBATCH --signal=B:TERM@")]
    [wait] = [word for word in text.split() if word.startswith("RAY_JOB_STOP_WAIT_TIME_S=")]
    assert int(warning.rsplit("@", 1)[1]) > int(wait.split("=")[1]) + 30
