"""Submitting jobs to a cluster of our own and following them, as a user would by hand."""

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from marey.errors import MareyError
from marey.experiment.run import fresh_name
from marey.launch.local_cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[3]
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_WORKER = re.compile(r"^\((?:\w+) pid=\d+(?:, ip=[\d.]+)?\) ")
# What Ray tells of its own doings; everything stays in the job's log.
_NOISE = re.compile(
    r"^\d{4}-\d\d-\d\d |TrainController|Execution plan|Starting execution|execution finished|"
    r"Setting up process group|^Progress bars disabled|^Running entrypoint|repeated \d+x"
)


def submit(cluster: LocalCluster, words: list[str]) -> int:
    """Submit a job and follow it to its end; Ctrl-C stops the job too, not only this client."""
    submission = fresh_name("job")
    command = ["ray", "job", "submit", "--submission-id", submission, "--working-dir", ".", "--", "python", *words]
    print(f"\n$ {shlex.join(command)}", flush=True)
    client = subprocess.Popen(
        command, cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        _follow(client)
        return client.wait()
    except BaseException:
        print(f"\nstopping {submission} ...", flush=True)
        subprocess.run(
            ["ray", "job", "stop", submission], env=cluster.environment, check=False, timeout=60, capture_output=True
        )
        client.terminate()
        raise


def _follow(client: "subprocess.Popen[str]") -> None:
    assert client.stdout is not None
    for line in client.stdout:
        text = _ANSI.sub("", line.rstrip())
        said = _WORKER.sub("", text)
        if said and not _NOISE.search(text) and not _NOISE.search(said):
            print(said, flush=True)


def run_program(name: str, main: Callable[[list[str]], int]) -> NoReturn:
    """End this process with the code of ``main(words)``; 130 after Ctrl-C, 1 after a user's mistake, told in a line."""
    threading.current_thread().name = name
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except MareyError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    if code == 130:
        os._exit(code)  # a client's thread may still wait for a job that is gone
    sys.exit(code)
