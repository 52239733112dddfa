"""A script run as the workers of one process group, over gloo."""

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(script: Path, world: int, *arguments: object, timeout: float = 800) -> None:
    """Run ``script`` in ``world`` processes that find each other; fails with what they said unless all end with 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join([str(HERE.parent / "platform"), str(HERE), str(script.parent)])
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env={**os.environ, **group, "PYTHONPATH": path, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [worker.communicate(timeout=timeout)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * world, "\n".join(output[-3000:] for output in outputs)


def join(main: Callable[[], None]) -> None:
    """What a script does at its end: run ``main`` as one worker of the group, and leave."""
    import torch
    from torch import distributed

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.setdefault("LOCAL_RANK", os.environ["RANK"])
    distributed.init_process_group("gloo")
    main()
    distributed.destroy_process_group()
    sys.stdout.flush()
    # Not through the interpreter's end: a gloo thread that lets go of its last tensor then aborts the process.
    os._exit(0)
