"""A proxy in front of an S3 server that does what networks and servers do on bad days."""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_ROOT = Path(__file__).parent.parent
_SEEN = "/-/seen"

_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_SKEWED = (
    b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and "
    b"the server's time is too large.</Message></Error>"
)


@dataclass
class Faults:
    """Shares of requests that go wrong; each is drawn from the seed."""

    seed: int = 0
    busy: float = 0.0
    """Answered 503 SlowDown, not passed on."""
    cut: float = 0.0
    """Answered, and the connection cut in the middle of the body."""
    lost: float = 0.0
    """Passed on and done, and the connection cut before the answer."""
    skewed: float = 0.0
    """Refused, as by a server whose clock is another."""
    seen: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def draw(self) -> str:
        """What becomes of the next request."""
        with self._lock:
            chance = self._random.random()
            for name in ("busy", "cut", "lost", "skewed"):
                chance -= getattr(self, name)
                if chance < 0:
                    self.seen[name] += 1
                    return name
            self.seen["passed"] += 1
            return ""


@contextmanager
def proxied(endpoint: str, faults: Faults) -> Iterator[str]:
    """The address of a proxy in front of `endpoint`, which is a process of its own: deltalake holds
    the interpreter's lock while it waits for storage. `faults.seen` is filled in at the end.
    """
    shares = {name: getattr(faults, name) for name in ("seed", "busy", "cut", "lost", "skewed")}
    command = [sys.executable, "-m", "tests.proxy", endpoint, json.dumps(shares)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_ROOT) as process:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        try:
            yield address
            with urllib.request.urlopen(address + _SEEN) as answer:
                faults.seen.update(json.load(answer))
        finally:
            process.terminate()


def _serve(endpoint: str, faults: Faults) -> None:
    backend = urlsplit(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            if self.path == _SEEN:
                self._answer(200, {}, json.dumps(faults.seen).encode())
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.draw()
            if fault == "busy":
                self._answer(503, {}, _SLOW_DOWN)
                return
            if fault == "skewed":
                self._answer(403, {}, _SKEWED)
                return
            connection = http.client.HTTPConnection(
                backend.hostname or "", backend.port, timeout=60
            )
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fault == "lost":
                self._hang_up()
                return
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "date", "server")
            }
            self._answer(answer.status, headers, data, is_cut=fault == "cut" and len(data) > 1)

        def _answer(
            self, status: int, headers: dict[str, str], data: bytes, *, is_cut: bool = False
        ) -> None:
            self.send_response(status)
            is_sized = False
            for name, value in headers.items():
                is_sized = is_sized or name.lower() == "content-length"
                self.send_header(name, value)
            if not is_sized and status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
            if is_cut:
                self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # a client that hung up

    server = Server(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1], Faults(**json.loads(sys.argv[2])))
