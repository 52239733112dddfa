"""A server in front of MLflow that can fail in the ways that servers do."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal

Mode = Literal["forward", "refuse", "hole", "error", "mute"]
"""refuse: nobody listens; hole: never answers; error: answers 500; mute: passes requests on, loses the answers."""


class Gate:
    """Listens on 127.0.0.1. Each connection carries one request, so that a change of mode holds at once."""

    def __init__(self, port: int, upstream: int) -> None:
        self.port, self.upstream = port, upstream
        self.mode: Mode = "forward"
        self._listen()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, mode: Mode) -> None:
        self.mode = mode
        if mode == "refuse":
            self.close()

    def recover(self) -> None:
        if self.mode == "refuse":
            self._listen()
        self.mode = "forward"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone would leave accept() waiting
        self._listener.close()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            request = b"".join(_request(connection))
            if not request or self.mode == "hole":
                connection.recv(1)  # until the client gives up
            elif self.mode == "error":
                connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                answer = self._forward(request)
                if self.mode == "forward":
                    connection.sendall(answer)

    def _forward(self, request: bytes) -> bytes:
        head, body = request.split(b"\r\n\r\n", 1)
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        with socket.create_connection(("127.0.0.1", self.upstream)) as upstream:
            upstream.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
            return b"".join(iter(lambda: upstream.recv(1 << 16), b""))


def _request(connection: socket.socket) -> Iterator[bytes]:
    """The parts of one request: a head, and as much body as it announces."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(1 << 16)
        if not part:
            return
        head += part
    yield head
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    left = int(fields.get(b"content-length", 0)) - len(head.split(b"\r\n\r\n", 1)[1])
    while left > 0:
        part = connection.recv(1 << 16)
        left -= len(part)
        yield part
