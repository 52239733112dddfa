"""Where a clip table lies: a folder, or what `pyarrow.fs` reaches by a URI (S3, Google, Azure, HDFS).

A `Place` is a `Path` or a `Remote`. Both join with ``/``, have a ``name`` and show as a person would type them; the
functions here do to either what a table needs. A file is written whole or not at all: an object store shows it when its
upload is complete, anywhere else it is renamed into place.
"""

import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Self, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from marey.errors import ClipError

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "hf", "file")
_BUCKETS = ("s3", "gs", "gcs")
_OBJECTS = (*_BUCKETS, "abfs", "abfss", "hf")  # where a file appears when it is closed, and folders need not be made
_SECRET = re.compile(r"secret|password|token|signature|^sig$|account_key", re.IGNORECASE)
_AT_ONCE = 16  # requests of one reader: each waits for the network, not for a processor
_STREAM_BYTES = 8 << 20
_MOST_TOLD = 300  # characters of a store's own message
FAULTS = (OSError, pa.ArrowException)
"""What reading and writing raise."""

T = TypeVar("T")
U = TypeVar("U")

_CREDENTIALS = (
    "credentials come from the environment (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for "
    "Google GOOGLE_APPLICATION_CREDENTIALS; or the machine's role)"
)
_ADVICE = (
    (
        r"access.?denied|invalid_?access_?key|signature|response code 40[13]|permission.?denied|forbidden"
        r"|unauthori[sz]ed|unauthenticated|expired|credential|access token",
        f"{_CREDENTIALS}, on every node; see that they are there, valid, and may list, read and, to prepare, write",
    ),
    (r"no_such_bucket|nosuchbucket|bucket.*(not found|not exist)", "make the bucket first, or mend its name"),
    (r"libjvm|libhdfs", "HDFS needs Java and Hadoop on every node: set JAVA_HOME, HADOOP_HOME and CLASSPATH"),
    (
        r"network_connection|curlcode|time.?d? ?out|could not (connect|resolve)|unavailable|slow_?down|endpoint",
        "see that the store can be reached from here, and that endpoint_override=, scheme= and region= in the URI are "
        "right; then run again",
    ),
)


@dataclass(frozen=True)
class Remote:
    """A folder or file behind a URI. It travels as text: every process connects with its own environment."""

    root: str
    """A URI, its options behind a question mark."""
    below: str = ""
    """Names below it, with ``/`` between them."""

    def __truediv__(self, names: str) -> Self:
        return type(self)(self.root, f"{self.below}/{names}" if self.below else names)

    def __str__(self) -> str:
        base, mark, options = self.root.partition("?")
        return "/".join(filter(None, [base, self.below])) + mark + options

    @property
    def name(self) -> str:
        """The last name, without options."""
        return PurePosixPath(str(self).partition("?")[0]).name


Place = Path | Remote


def located(text: Path | str | Remote) -> Place:
    """The place that a path (made absolute) or a URI means; ``file://`` is a path.

    Raises `ClipError` as `check_uri` does.
    """
    if not isinstance(text, str) or not is_uri(text):
        return text if isinstance(text, Remote) else Path(text).absolute()
    check_uri(text)
    base, mark, options = text.partition("?")
    place = Remote(base.rstrip("/") + mark + options)
    return Path(_connect(text)[1]) if text.startswith("file:") else place


def is_uri(text: str) -> bool:
    """Whether a text is meant as a URI; a path may hold ``://`` further on."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def check_uri(uri: str) -> None:
    """Raise `ClipError` for a scheme that is not there, and for credentials, which would be recorded with the run."""
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES and not scheme.startswith("fsspec+"):
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise ClipError(f"{scheme}://: no such kind of place; there are {known} and absolute paths")
    try:
        parts = urlsplit(uri)
        options = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError as error:
        raise ClipError(f"{scheme}://: is not a URI ({error}); write for example s3://bucket/tables/mine") from None
    user, at, host = parts.netloc.rpartition("@")
    secret = [name for name, _ in options if _SECRET.search(name)]
    if (at and (":" in user or scheme == "s3")) or secret:
        what = f"the option {secret[0]}=" if secret else "a user or password before the @"
        raise ClipError(
            f"{scheme}://{host}{parts.path}: was given with {what}, and settings are recorded with every run; leave it "
            f"out, {_CREDENTIALS}"
        )
    if scheme in _BUCKETS and not parts.netloc:
        raise ClipError(f"{uri}: names no bucket; write for example {scheme}://bucket/tables/mine")


@lru_cache(maxsize=64)
def _connect(uri: str) -> tuple[pafs.FileSystem, str]:
    """A connection, and what the URI is called there. Cached: S3 is asked for the bucket's region first."""
    try:
        system, path = pafs.FileSystem.from_uri(uri)
    except (*FAULTS, ValueError, ImportError) as error:
        raise _refused(uri, "cannot be reached", error) from None
    return system, path.rstrip("/")


def _reach(place: Remote) -> tuple[pafs.FileSystem, str]:
    system, path = _connect(place.root)
    return system, f"{path}/{place.below}" if place.below else path


def _refused(place: object, what: str, error: BaseException) -> ClipError:
    text = " ".join(str(error).split())
    tip = next((tip for pattern, tip in _ADVICE if re.search(pattern, text, re.IGNORECASE)), "")
    return ClipError(f"{place}: {what}: {text[:_MOST_TOLD]}" + (f"; {tip}" if tip else ""))


def unreachable(place: Place, error: BaseException) -> ClipError | None:
    """What to raise where a read failed for want of rights or of a network, and not because of what is in the file."""
    known = any(re.search(pattern, str(error), re.IGNORECASE) for pattern, _ in _ADVICE)
    return _refused(place, "cannot be read", error) if isinstance(place, Remote) and known else None


def make_ready(folder: Place) -> None:
    """Make a folder for files to come, or see that their bucket is there; `ClipError` where that cannot be."""
    if isinstance(folder, Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClipError(f"{folder}: cannot be made: {error}; choose another table=") from None
    elif missing := missing_bucket(folder):
        raise ClipError(f"{folder}: there is no bucket {missing!r}; make it first, or mend its name")


def missing_bucket(place: Place) -> str | None:
    """The name of the place's bucket where that does not exist."""
    if not isinstance(place, Remote) or urlsplit(place.root).scheme not in _BUCKETS:
        return None
    system, path = _reach(place)
    bucket = path.partition("/")[0]
    try:
        [found] = system.get_file_info([bucket])
    except FAULTS as error:
        raise _refused(place, "cannot be reached", error) from None
    return bucket if found.type == pafs.FileType.NotFound else None


def open_stream(file: Place) -> io.BufferedReader:
    """A file to be read from its beginning to its end. Raises `FileNotFoundError`, and `ClipError` naming a URI."""
    if isinstance(file, Path):
        return file.open("rb")
    system, path = _reach(file)
    try:
        return cast(io.BufferedReader, system.open_input_stream(path, buffer_size=_STREAM_BYTES))
    except FileNotFoundError:
        raise
    except FAULTS as error:
        raise _refused(file, "cannot be read", error) from None


def read_bytes(file: Place) -> bytes:
    """A small file's content. Raises as `open_stream`."""
    with open_stream(file) as stream:
        return stream.read()


def open_source(file: Place) -> Any:
    """What `pyarrow.parquet` takes for a file, to be read at random."""
    if isinstance(file, Path):
        return file
    system, path = _reach(file)
    return system.open_input_file(path)


def open_parquet(file: Place) -> pq.ParquetFile:
    """A Parquet file; of a remote one neighbouring columns come with one request."""
    return pq.ParquetFile(open_source(file), pre_buffer=isinstance(file, Remote))


def children(folder: Place) -> dict[str, tuple[int, float]]:
    """Bytes, and seconds of the last change, of the files in a folder by their names; none if there is no folder."""
    if isinstance(folder, Path):
        stats = {path.name: path.stat() for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
        return {name: (stat.st_size, stat.st_mtime) for name, stat in stats.items()}
    system, path = _reach(folder)
    try:
        found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    except FAULTS as error:
        raise _refused(folder, "cannot be listed", error) from None
    return {one.base_name: (one.size, (one.mtime_ns or 0) / 1e9) for one in found if one.is_file}


def sizes(root: Place, files: Sequence[str]) -> dict[str, int]:
    """Bytes of those of some files below a folder that are there; of a remote folder, by listing it."""
    if isinstance(root, Path):
        return {file: (root / file).stat().st_size for file in files if (root / file).is_file()}
    listed = {folder: children(root / folder) for folder in {file.rpartition("/")[0] for file in files}}
    names = {file: listed[file.rpartition("/")[0]].get(file.rpartition("/")[2]) for file in files}
    return {file: known[0] for file, known in names.items() if known}


def size(file: Place) -> int | None:
    """Bytes of one file; None if it is not there."""
    if isinstance(file, Path):
        return file.stat().st_size if file.is_file() else None
    system, path = _reach(file)
    try:
        [found] = system.get_file_info([path])
    except FAULTS as error:
        raise _refused(file, "cannot be looked at", error) from None
    return found.size if found.is_file else None


def write(file: Place, content: bytes | pa.Buffer) -> None:
    """Write a file whole or not at all. Raises `OSError` for a path, `ClipError` for a URI."""
    if isinstance(file, Path):
        write_atomically(file, bytes(content))
        return
    system, path = _reach(file)
    folder, _, name = path.rpartition("/")
    renamed = urlsplit(file.root).scheme not in _OBJECTS
    written = f"{folder}/.{name}.{uuid4().hex}.tmp" if renamed else path
    try:
        if renamed:
            system.create_dir(folder)
        # In one call: a stream that is let go half-way completes its upload with what it has.
        with system.open_output_stream(written) as stream:
            stream.write(content)
        if renamed:
            system.move(written, path)
    except FAULTS as error:
        raise _refused(file, "cannot be written", error) from None


def delete(file: Place) -> None:
    """Delete a file. A store may refuse: who writes there need not have the right to delete."""
    if isinstance(file, Path):
        file.unlink()
        return
    system, path = _reach(file)
    try:
        system.delete_file(path)
    except FAULTS as error:
        raise _refused(file, "cannot be deleted", error) from None


def at_once(places: Iterable[Place]) -> int:
    """How many files to read at a time, where these are read."""
    return _AT_ONCE if any(isinstance(place, Remote) for place in places) else 1


def in_order(make: Callable[[T], U], items: Iterable[T], at_once: int) -> Iterator[U]:
    """``make`` of each item, in order, so many at a time; none is begun long before it is asked for."""
    if at_once == 1:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(at_once, thread_name_prefix="remote") as pool:
        pending: deque[Future[U]] = deque()
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) >= at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
