"""A real S3 server for tests, over HTTP: it keeps a diary of requests and refuses what it is told to."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow.fs as pafs

WRITES = ("PUT", "POST")


class Request(NamedTuple):
    """One line of the diary."""

    method: str
    path: str
    range: str | None
    last: bool
    """Not a part or the beginning of an upload in parts: what makes an object visible."""


class Store:
    """S3 with one bucket, ``clips``, on a free port."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.diary: list[Request] = []
        self._refusal: tuple[tuple[str, ...], str] | None = None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, name="s3", daemon=True).start()
        self.system, _ = pafs.FileSystem.from_uri(self.uri("", "allow_bucket_creation=true"))
        self.system.create_dir("clips")

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()

    def uri(self, name: str, *options: str, bucket: str = "clips") -> str:
        """A place in the bucket, as a user writes it."""
        told = [f"endpoint_override=127.0.0.1:{self._server.server_port}", "scheme=http", *options]
        return f"s3://{bucket}/{name}?{'&'.join(told)}"

    def objects(self, name: str) -> dict[str, int]:
        """What there is below ``name``: bytes by path."""
        found = self.system.get_file_info(pafs.FileSelector(f"clips/{name}", recursive=True, allow_not_found=True))
        return {one.path.removeprefix(f"clips/{name}/"): one.size for one in found if one.is_file}

    def read(self, path: str) -> bytes:
        """An object's content."""
        with self.system.open_input_stream(f"clips/{path}") as stream:
            return stream.read()

    def put(self, path: str, content: bytes) -> None:
        """Make or replace an object."""
        with self.system.open_output_stream(f"clips/{path}") as stream:
            stream.write(content)

    def delete(self, path: str) -> None:
        """Delete an object."""
        self.system.delete_file(f"clips/{path}")

    @contextmanager
    def refusing(self, code: str, methods: tuple[str, ...]) -> Iterator[None]:
        """Answer these requests with 403 and S3's name of an error."""
        self._refusal = methods, code
        try:
            yield
        finally:
            self._refusal = None

    @contextmanager
    def requests(self) -> Iterator[list[Request]]:
        """The diary from here on."""
        self.diary.clear()
        yield self.diary

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, query = environment["REQUEST_METHOD"], environment["QUERY_STRING"]
        part = "partNumber" in query or query.startswith("uploads")
        self.diary.append(Request(method, environment["PATH_INFO"], environment.get("HTTP_RANGE"), not part))
        if self._refusal is None or method not in self._refusal[0]:
            return self._app(environment, start)
        environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
        start("403 Forbidden", [("Content-Type", "application/xml")])
        return [f"<Error><Code>{self._refusal[1]}</Code><Message>Not for you.</Message></Error>".encode()]
