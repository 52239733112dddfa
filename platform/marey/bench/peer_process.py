"""Peers of a bench: programs that another interpreter runs, in the environment that `make bench-env` makes."""

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

PYTHON = Path(__file__).parents[3] / ".bench/bin/python"
"""The interpreter that has the peers, where `make bench-env` has been run."""


class PeerProcess:
    """A peer that answers lines of JSON with lines of JSON; it ends with ``stack``."""

    def __init__(self, command: list[str], stack: ExitStack) -> None:
        # Threads that wait for work spin, and would be charged to the peer.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._requests, self._answers = process.stdin, process.stdout
        stack.callback(process.stdin.close)

    def tell(self, request: Any) -> None:
        """Send a line that nothing is answered to."""
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()

    def ask(self, request: Any) -> Any:
        """What is answered to a request."""
        self.tell(request)
        return json.loads(self._answers.readline())
