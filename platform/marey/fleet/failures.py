"""What went wrong in a worker, told as its cause; and how often a run that makes no progress is started again."""

import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marey.engine import checkpoint
from marey.errors import MareyError
from marey.fleet.cluster import say

_TOLD = (r"pid=\d+", r"hostname='[^']*'", r"exit type: \w+", r"exit detail: [^.]*")


class WorkerFailure(MareyError):
    """A worker failed; the text ends with its own traceback and the path of its log."""


class Patience:
    """Counts restarts since the last progress, which is a new checkpoint; a machine taken away is not counted."""

    def __init__(self, most: int, directory: Path, say: Callable[[str], None] = say) -> None:
        self.most = most
        self.checkpoints = directory / "checkpoints"
        self.say = say
        self.step = self.newest()
        self.count = 0

    def newest(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        saved = checkpoint.steps(self.checkpoints)
        return int(saved[-1].name) if saved else 0

    def failed(self, error: BaseException, again: bool = True) -> None:
        """Take note of a failure, before another attempt. Raises `WorkerFailure` if there should be none.

        ``again``: whether another attempt may be made at all.
        """
        from ray.exceptions import RayError
        from ray.train.v2.api.exceptions import TrainingFailedError

        if not isinstance(error, (RayError, TrainingFailedError)):  # the former: Ray's controller was lost
            raise error
        failure, step = _failure(error), self.newest()
        if again and _is_preemption(error):
            self.say(f"a machine was taken away; going on from the checkpoint of step {step} (not counted)")
            return
        self.count = self.count + 1 if step == self.step else 1
        self.step = step
        if again and self.count <= self.most:
            self.say(f"{failure}\nrestart {self.count} of {self.most} from the checkpoint of step {step}")
            return
        if again and self.most:
            raise WorkerFailure(
                f"{self.count} attempts from the checkpoint of step {step} have failed (fleet.max_failures="
                f"{self.most}); the last:\n{failure}"
            )
        raise failure


def account(rank: int, error: Exception) -> str:
    """An error as its worker tells it: a traceback does not survive the way to the driver. User errors need none."""
    from ray import get_runtime_context

    text = str(error) if isinstance(error, MareyError) else traceback.format_exc().rstrip()
    node = get_runtime_context().get_node_id()
    return f"worker {rank} failed: {text}\nlog of worker {rank} (process {os.getpid()}, node {node[:8]}): {_log_path()}"


def logs() -> Path:
    """The folder in which Ray keeps what processes of this host print."""
    from ray._private.worker import global_worker

    return Path(global_worker.node.get_logs_dir_path()) if global_worker.node else Path("logs")


def _log_path() -> str:
    """Where Ray keeps this process' output."""
    folder = logs()
    mine = sorted(folder.glob(f"worker-*-{os.getpid()}.err"))
    return str(mine[0] if mine else folder)


def _is_preemption(error: BaseException) -> bool:
    """Whether a machine was taken away with notice: Ray says so of the run, or of a worker that was lost."""
    from ray.train.v2.api.exceptions import PreemptionError

    lost = getattr(error, "worker_failures", None) or {}
    return isinstance(error, PreemptionError) or any(getattr(_cause(one), "preempted", False) for one in lost.values())


def _failure(error: BaseException) -> WorkerFailure:
    """The first cause among the workers' errors: the others mostly tell of a lost connection to it."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return WorkerFailure(f"training failed: {error}")
    causes = {rank: _cause(one) for rank, one in failures.items()}
    rank, cause = min(causes.items(), key=lambda item: (_is_echo(item[1]), item[0]))
    return cause if isinstance(cause, WorkerFailure) else WorkerFailure(f"worker {rank} was lost: {_shortened(cause)}")


def _shortened(lost: BaseException) -> str:
    """What Ray tells of a process that is gone, without its numbers for it and its list of common causes."""
    text = str(lost)
    known = [found[0] for sign in _TOLD if (found := re.search(sign, text))]
    return ", ".join(known) or text


def _cause(failure: Any) -> Any:
    return getattr(failure, "_base_exc", failure)


def _is_echo(error: BaseException) -> bool:
    text = str(error)
    return any(sign in text for sign in ("Connection closed by peer", "Connection reset", "gloo", "NCCL"))
