"""A crash, a bomb or a hang costs one video, and no process outlives its owner."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marey.clips.datasets import Source
from marey.clips.row import from_arrow
from marey.clips.sandbox import Sandbox
from marey.clips.segments import prepare_source
from marey.clips.storage import ClipStorage, Limits
from marey.clips.video import Refused
from marey.config import to_tree
from videos import REPOSITORY, write_unusable, write_video

FAST = ClipStorage(preset="ultrafast")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY / "platform")}

# The real server, with a stand-in for decoding that misbehaves as its source's name says.
MISBEHAVING = """
import os, signal, time
from marey.clips import sandbox
def misbehave(source, storage, allow):
    match source.source_id:
        case "crash": os.kill(os.getpid(), signal.SIGSEGV)
        case "abort": os.abort()
        case "exit": os._exit(3)
        case "hang": time.sleep(60)
        case "spin":
            while True: pass
        case "patient": allow(30); time.sleep(1.5)
        case "greedy": allow(0.4); allow(0.4); time.sleep(60)
        case "bomb": bytearray(1 << 31)
        case "bug": raise KeyError("oops")
        case "disk": raise OSError(28, "No space left on device")
    yield from ()
sandbox.iterate_rows = misbehave
sandbox.serve()
"""


class Server:
    """A misbehaving server to talk to."""

    def __init__(self, tmp_path: Path, **limits: float) -> None:
        self._rows = tmp_path / "rows.arrow"
        self._storage = ClipStorage(limits=Limits(**limits))  # type: ignore[arg-type]
        self.process = subprocess.Popen(
            [sys.executable, "-c", MISBEHAVING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
        )

    def send(self, what: str) -> None:
        source = {"source_id": what, "uri": "/nowhere"}
        request = {"source": source, "storage": to_tree(self._storage), "rows": str(self._rows)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, what: str) -> dict[str, Any]:
        self.send(what)
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), seconds=1, memory_mib=500)
    yield server
    server.close()
    assert server.process.returncode == 0


def test_rows_are_those_of_the_same_process(tmp_path: Path) -> None:
    source = Source("a", str(write_video(tmp_path / "a.mp4", 60)), 3, "jump", "train")
    storage = ClipStorage(preset="ultrafast", max_seconds=1)
    with Sandbox(storage) as sandbox:
        rows = [row for table in sandbox.tables(source) for row in from_arrow(table)]
    assert rows == prepare_source(source, storage)
    assert len(rows) == 3


def test_unusable_videos_are_refused_and_the_next_one_goes_on(tmp_path: Path) -> None:
    good = Source("good", str(write_video(tmp_path / "good.mp4", 10)))
    with Sandbox(FAST) as sandbox:
        for path in write_unusable(tmp_path / "bad"):
            with pytest.raises(Refused, match=r"probe|decode"):
                list(sandbox.tables(Source(path.name, str(path))))
            assert sum(table.num_rows for table in sandbox.tables(good)) == 1


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("crash", "the decoder crashed (SIGSEGV)"),
        ("abort", "the decoder crashed (SIGABRT)"),
        ("exit", "the decoder gave up (exit status 3)"),
        ("hang", "took longer than 1 s (clips.limits.seconds)"),
        ("greedy", "took longer than 1 s (clips.limits.seconds, and 2 s for its flow)"),
        ("bomb", "needs more than 500 MiB (clips.limits.memory_mib)"),
        ("bug", "KeyError: 'oops'"),
    ],
)
def test_misbehaviour_costs_one_video(server: Server, what: str, reason: str) -> None:
    answer = server.ask(what)
    assert answer["status"] == "refused"
    assert answer["reason"] == reason
    assert server.ask("well") == {"status": "ok"}


def test_a_video_that_asked_for_more_time_has_it(server: Server) -> None:
    assert server.ask("patient") == {"status": "ok"}


def test_a_full_disk_is_not_the_videos_fault(server: Server) -> None:
    assert server.ask("disk") == {"status": "failed", "reason": "OSError: [Errno 28] No space left on device"}


def write_bomb(path: Path) -> Path:
    black = np.zeros((2, 4320, 8192, 3), np.uint8)
    return write_video(path, black, options={"preset": "ultrafast", "crf": "51"})


def test_a_real_bomb_is_refused_for_its_memory(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "bomb.mp4")
    assert path.stat().st_size < 200_000
    with (
        Sandbox(ClipStorage(limits=Limits(memory_mib=64))) as sandbox,
        pytest.raises(Refused, match=r"needs more than 64 MiB \(clips\.limits\.memory_mib\)"),
    ):
        list(sandbox.tables(Source("bomb", str(path))))
    with Sandbox(FAST) as sandbox:
        assert list(sandbox.tables(Source("bomb", str(path))))


# In a process of its own, which has no other children: the most memory that the server or a child of it held.
PEAK = """
import resource, sys
from marey.clips.datasets import Source
from marey.clips.sandbox import Sandbox
from marey.clips.storage import ClipStorage
with Sandbox(ClipStorage(preset="ultrafast")) as sandbox:
    assert list(sandbox.tables(Source("bomb", sys.argv[1])))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_a_bomb_stays_under_512_mb(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "bomb.mp4")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "platform")}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    assert 50_000 < int(done.stdout) < 512_000  # KiB


def test_the_server_starts_without_pytorch() -> None:
    """Each of a large table's chunks starts one, and the import alone would take it two seconds."""
    told = "import sys, marey.clips.sandbox; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", told], env=ENVIRONMENT, text=True) == "False\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_server_has_no_threads_when_it_forks(tmp_path: Path) -> None:
    with Sandbox(FAST) as sandbox:
        list(sandbox.tables(Source("a", str(write_video(tmp_path / "a.mp4", 10)))))
        status = Path(f"/proc/{sandbox._server.pid}/status").read_text()
    assert "Threads:\t1\n" in status


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(true: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_server_and_its_child_end_with_their_owner(tmp_path: Path) -> None:
    server = Server(tmp_path, seconds=60)
    server.send("hang")
    wait_until(lambda: children_of(server.process.pid))
    (child,) = children_of(server.process.pid)
    assert server.process.stdin is not None
    server.process.stdin.close()  # what the kernel does when the owner is killed
    wait_until(lambda: server.process.poll() is not None and not Path(f"/proc/{child}").exists())


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_child_ends_with_its_server(tmp_path: Path) -> None:
    server = Server(tmp_path, seconds=60)
    server.send("spin")
    wait_until(lambda: children_of(server.process.pid))
    (child,) = children_of(server.process.pid)
    server.process.kill()
    server.process.wait(10)
    wait_until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())


def test_it_works_where_only_the_path_of_this_process_knows_the_package(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'platform')!r})\n"
        "from marey.clips.sandbox import Sandbox\n"
        "from marey.clips.storage import ClipStorage\n"
        "from marey.clips.datasets import Source\n"
        "with Sandbox(ClipStorage(preset='ultrafast')) as sandbox:\n"
        f"    print(sum(table.num_rows for table in sandbox.tables(Source('a', {str(path)!r}))))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "1"
