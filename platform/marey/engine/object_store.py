"""Copies of a run's checkpoints in an object store, from which the run goes on where its own folder is gone.

    s3://bucket/marey/RUN/
        writers/000003                  who claimed the third epoch, and the step from which it went on
        000000000200-000003/            a checkpoint (`marey.engine.checkpoint`) of that writer
            weights.safetensors ... state.json
            MANIFEST.json               put last, and only where there is none

A store cannot rename: it is the manifest that makes a checkpoint. A writer first claims the next epoch, with an object
that only one can make. A checkpoint counts if no later epoch went on from an earlier step; so whatever a writer still
puts after it was cut off is passed over.
"""

import json
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from marey.engine import checkpoint
from marey.engine.checkpoint import MANIFEST, Saved
from marey.engine.checkpoint_config import CheckpointConfig
from marey.engine.tensor_files import write_flushed
from marey.errors import CheckpointError, ConfigError

_CHECKPOINT = re.compile(r"([0-9]{12,})-([0-9]{6,})/(.+)")
_WRITER = re.compile(r"writers/([0-9]{6,})")
_RETRY: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}  # longer patience is the keeper's
_CHUNK = 16 << 20  # bytes of a file that are held at a time

Folder = tuple[int, int]
"""Step and epoch, which name a checkpoint's folder."""


class Copies:
    """The copies of one run. Methods raise `OSError` where the store refuses, naming it."""

    def __init__(self, uri: str, run: str) -> None:
        base, _, options = uri.partition("?")
        self.place = f"{base.rstrip('/')}/{run}"
        told = dict(parse_qsl(options))
        config: dict[str, Any] = {"region": told["region"]} if "region" in told else {}
        if "endpoint_override" in told:
            config["endpoint"] = f"{told.get('scheme', 'https')}://{told['endpoint_override']}"
        local = {"mkdir": True, "automatic_cleanup": True} if base.startswith("file:") else {}
        http = {"client_options": {"allow_http": True}} if told.get("scheme") == "http" else {}
        connect: Any = from_url  # its types know each kind of store's own options alone
        try:
            self.store: Any = connect(self.place, config=config or None, retry_config=_RETRY, **local, **http)
        except BaseError as error:
            raise ConfigError(f"checkpoint.copy_to={uri}: {_brief(error)}") from None
        self.epoch: int | None = None
        """The one that this process has claimed."""

    def take_over(self, step: int | None) -> None:
        """Become the only writer, going on from the checkpoint of ``step`` (None: from the beginning)."""
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        claim = json.dumps({"holder": holder, "from": step}).encode()
        with self._naming("cannot be written"):
            while self.epoch is None:
                epoch = max(self._listed()[1], default=0) + 1
                try:
                    self.store.put(f"writers/{epoch:06d}", claim, mode="create")
                    self.epoch = epoch
                except AlreadyExistsError:
                    continue

    def put(self, saved: Path) -> None:
        """Copy a whole checkpoint. `CheckpointError` if another process has taken over, and then it does not count."""
        assert self.epoch is not None
        folder = _named((int(saved.name), self.epoch))
        with self._naming("cannot be written"):
            self._check_writer()
            for name in checkpoint.names_in(saved / MANIFEST):
                self.store.put(f"{folder}/{name}", saved / name)
            self._check_writer()
            manifest = (saved / MANIFEST).read_bytes()
            try:
                self.store.put(f"{folder}/{MANIFEST}", manifest, mode="create")
            except AlreadyExistsError:  # put before, and the answer was lost
                if self._read(f"{folder}/{MANIFEST}") != manifest:
                    raise CheckpointError(f"{self.place}/{folder}: another process has written it") from None

    def prune(self, kept: Collection[int]) -> None:
        """Delete copies of other steps, those that do not count, and what killed writers have left."""
        with self._naming("cannot be pruned"):
            folders, writers = self._listed()
            counted = self._counted(folders, writers)
            for folder, names in folders.items():
                step, epoch = folder
                if epoch > (self.epoch or 0) or (counted.get(step) == folder and step in kept):
                    continue
                # The manifest first: no half of it can be taken for a checkpoint.
                for name in sorted(names, key=lambda name: name != MANIFEST):
                    self.store.delete(f"{_named(folder)}/{name}")

    def steps(self) -> list[int]:
        """Steps of the checkpoints that count, oldest first."""
        with self._naming("cannot be listed"):
            return sorted(self._counted(*self._listed()))

    def fetch(self, directory: Path, report: Callable[[str], None] = print) -> Saved | None:
        """Bring the newest whole copy (and its best) into ``directory`` if it is newer than all there.

        One that is not what its manifest says is named through ``report`` and passed over.
        """
        own = checkpoint.newest(directory, report)
        with self._naming("cannot be read"):
            counted = self._counted(*self._listed())
            for step in sorted(counted, reverse=True):
                if own is not None and step <= own.step:
                    return None
                if newest := self._received(directory, counted[step], report):
                    best = newest.state.get("best_step")
                    if best in counted and directory / f"{best:012d}" not in checkpoint.steps(directory):
                        self._received(directory, counted[best], report)
                    return newest
        return None

    def _received(self, directory: Path, folder: Folder, report: Callable[[str], None]) -> Saved | None:
        """One copy, now in ``directory``; None if it is not whole."""
        name = _named(folder)
        try:
            return checkpoint.receive(directory, folder[0], partial(self._download, name))
        except CheckpointError as error:
            report(f"copy {self.place}/{name} passed over: {error}")
            return None

    def _download(self, folder: str, place: Path) -> None:
        """The manifest first: it says which files there are."""
        write_flushed(place / MANIFEST, [self._read(f"{folder}/{MANIFEST}")])
        for name in checkpoint.names_in(place / MANIFEST):
            try:
                stream = self.store.get(f"{folder}/{name}").stream(min_chunk_size=_CHUNK)
            except FileNotFoundError:
                raise CheckpointError(f"{folder}/{name}: missing; this copy is not whole") from None
            write_flushed(place / name, (bytes(chunk) for chunk in stream))

    def _listed(self) -> tuple[dict[Folder, list[str]], list[int]]:
        """Names of the files in each checkpoint's folder, and the epochs."""
        folders: dict[Folder, list[str]] = {}
        writers = []
        for page in self.store.list():
            for one in page:
                if found := _CHECKPOINT.fullmatch(one["path"]):
                    folders.setdefault((int(found[1]), int(found[2])), []).append(found[3])
                elif found := _WRITER.fullmatch(one["path"]):
                    writers.append(int(found[1]))
        return folders, sorted(writers)

    def _counted(self, folders: dict[Folder, list[str]], writers: list[int]) -> dict[int, Folder]:
        """By step, the checkpoints that count; of one step the last."""
        whole = sorted((folder for folder, names in folders.items() if MANIFEST in names), key=lambda one: one[1])
        began = {epoch: self._claim(epoch)["from"] for epoch in writers if whole and epoch > whole[0][1]}
        later = {folder: [step for epoch, step in began.items() if epoch > folder[1]] for folder in whole}
        return {
            folder[0]: folder
            for folder in whole
            if all(step is not None and step >= folder[0] for step in later[folder])
        }

    def _check_writer(self) -> None:
        newest = max(self._listed()[1])
        if newest != self.epoch:
            raise CheckpointError(
                f"{self.place}: {self._claim(newest)['holder']} has taken this run over meanwhile; this process writes "
                "no more to it"
            )

    def _claim(self, epoch: int) -> dict[str, Any]:
        return json.loads(self._read(f"writers/{epoch:06d}"))

    def _read(self, path: str) -> bytes:
        return bytes(self.store.get(path).bytes())

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise OSError(f"{self.place}: {what}: {_brief(error)}") from None


def copies_of(directory: Path, config: CheckpointConfig) -> Copies | None:
    """Where copies of a run's checkpoints go, if anywhere; ``directory``: ``runs/<name>/checkpoints``."""
    return None if config.copy_to is None else Copies(config.copy_to, directory.parent.name)


def _named(folder: Folder) -> str:
    return f"{folder[0]:012d}-{folder[1]:06d}"


def _brief(error: BaseException) -> str:
    """Without the debugging tree that follows."""
    return " ".join(str(error).partition("Debug source:")[0].split())
