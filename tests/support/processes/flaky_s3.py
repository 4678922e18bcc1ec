"""Stand between a client and an S3 server on loopback, and do what networks and servers do on bad days."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAULTS = (
    "500", "503", "403", "reset before", "reset after", "no answer", "cut", "short", "wrong", "empty",
)  # fmt: skip
"""500, 503 (which asks for patience) and 403 (credentials that have expired): such an answer. reset before, after: the
connection breaks before the server has the request, or after it has done it. no answer: none comes. cut: the body ends
before its length. short, empty, wrong: a body that is declared as it comes, and is not the object's."""
_CODES = {"500": "InternalError", "503": "SlowDown", "403": "ExpiredToken"}
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}
_SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
input()
"""


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    number: int
    """From 0, since the proxy was told to count anew."""
    method: str
    path: str
    query: str

    @property
    def lists(self) -> bool:
        """Whether it asks for names."""
        return "list-type" in self.query


def no_fault(_: Request) -> str:
    """Disturb nothing."""
    return ""


@dataclass
class Proxy:
    """An S3 endpoint that passes requests on to a server, but for those that `fault` names a fault for."""

    server: str
    fault: Callable[[Request], str] = no_fault
    requests: list[Request] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    """Faults that were played."""
    victim: int | None = None
    """Process that the faults "kill before" and "kill after" kill; they wait until it is named."""
    stop: threading.Event = field(default_factory=threading.Event)
    _lists: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def play(self, fault: Callable[[Request], str]) -> None:
        """Count requests anew, and disturb them in another way."""
        self.fault, self.requests, self.done = fault, [], []

    def chosen(self, method: str, target: str) -> tuple[Request, str]:
        """Return a request and its fault, if any."""
        path, _, query = target.partition("?")
        with self._lock:
            request = Request(len(self.requests), method, urllib.parse.unquote(path), query)
            self.requests.append(request)
            fault = self.fault(request)
            if fault:
                self.done.append(fault)
        return request, fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        body = self._body()
        request, fault = self.proxy.chosen(self.command, self.path)
        if fault in _CODES:
            headers = {"Retry-After": "1"} if fault == "503" else {}
            self._answer(int(fault), headers, f"<Error><Code>{_CODES[fault]}</Code></Error>".encode())
        elif fault == "reset before":
            self._reset()
        elif fault == "no answer":
            self.proxy.stop.wait()
            self._reset()
        elif fault == "kill before":
            self._kill()
            self._reset()
        else:
            self._pass_on(request, fault, body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _pass_on(self, request: Request, fault: str, body: bytes) -> None:
        connection = http.client.HTTPConnection(self.proxy.server.removeprefix("http://"))
        with contextlib.closing(connection):
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            length = int(answer.getheader("Content-Length") or len(data))
        if fault == "kill after":
            self._kill()
        if fault in ("kill after", "reset after"):
            self._reset()
            return
        if request.lists and answer.status == 200:
            data = self._maybe_stale(request, fault, data)
        self._answer(answer.status, kept, data, fault, length)

    def _kill(self) -> None:
        while (victim := self.proxy.victim) is None:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    def _maybe_stale(self, request: Request, fault: str, data: bytes) -> bytes:
        """Return the first answer that such a listing ever got where the fault is "stale"."""
        first = self.proxy._lists.setdefault(request.query, data)
        return first if fault == "stale" else data

    def _answer(self, status: int, headers: dict[str, str], data: bytes, fault: str = "", length: int = -1) -> None:
        if fault == "wrong" and data:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        elif fault in ("short", "empty"):
            data = data[: len(data) // 2 if fault == "short" else 0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        declared = length if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(declared))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        """Break the connection, as a network does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # The file objects hold the socket open until they are closed too.
        self.rfile.close()
        self.connection.close()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: connections break here on purpose."""


@contextlib.contextmanager
def s3_behind_proxy(bucket: str) -> Iterator[Proxy]:
    """Start an S3 server with a bucket, and a proxy before it; the environment points at the proxy meanwhile."""
    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True)
    assert server.stdout is not None
    with server, pytest.MonkeyPatch.context() as patch:
        proxy = Proxy(server.stdout.readline().strip())
        handler = type("_Bound", (_Handler,), {"proxy": proxy})
        web = _Server(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        host, port = web.server_address[:2]
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host!s}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(f"{proxy.server}/{bucket}", method="PUT"), timeout=60):
            pass
        try:
            yield proxy
        finally:
            proxy.stop.set()
            web.shutdown()
            web.server_close()
            server.kill()
