"""Serve a folder as an S3 bucket on loopback, each answer a fixed time after its request.

As little as the client needs: GET with a range, HEAD, PUT (only if new), DELETE, and listings of one level by pages of
1,000. One thread, no checks: it must cost less than what is measured through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

_STAMP = "Thu, 01 Jan 2026 00:00:00 GMT"
_PAGE = 1000
_listed: dict[str, list[tuple[str, int]]] = {}


class Connection(asyncio.Protocol):
    """One client's connection, of requests that follow one another."""

    def __init__(self, root: Path, delay_s: float) -> None:
        self.root, self.delay_s, self.data = root, delay_s, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data = self.data + data if self.data else data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        lines = self.data[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        whole = end + 4 + int(headers.get("content-length", 0))
        if len(self.data) < whole:
            return
        body, self.data = self.data[end + 4 : whole], self.data[whole:]
        method, target, _ = lines[0].split(" ")
        asyncio.get_running_loop().call_later(self.delay_s, self._answer, method, target, headers, body)

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        status, more, data = self._answered(method, target, headers, body)
        length = more.pop("Content-Length", str(len(data)))
        told = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        head = f'HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nLast-Modified: {_STAMP}\r\nETag: "x"\r\n{told}\r\n'
        assert isinstance(self.transport, asyncio.WriteTransport)
        self.transport.write(head.encode() + data)

    def _answered(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        path, _, query = target.partition("?")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        if "list-type" in asked:
            return 200, {}, self._page(asked)
        file = self.root / urllib.parse.unquote(path).strip("/").partition("/")[2]
        if method == "PUT":
            if headers.get("if-none-match") == "*" and file.exists():
                return 412, {}, b""
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
            return 200, {}, b""
        if method == "DELETE":
            file.unlink(missing_ok=True)
            return 204, {}, b""
        return _read(file, method, headers.get("range"))

    def _page(self, asked: dict[str, str]) -> bytes:
        prefix, start = asked.get("prefix", ""), int(asked.get("continuation-token", 0))
        if not start:
            folder = self.root / prefix
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else []
            _listed[prefix] = [(e.name, -1 if e.is_dir() else e.stat().st_size) for e in entries]
        page = _listed[prefix][start : start + _PAGE]
        more = start + _PAGE < len(_listed[prefix])
        parts = ["<ListBucketResult>", f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"]
        if more:
            parts.append(f"<NextContinuationToken>{start + _PAGE}</NextContinuationToken>")
        for name, size in page:
            key = escape(prefix + name)
            if size < 0:
                parts.append(f"<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>")
            else:
                parts.append(
                    f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>x</ETag><Size>{size}</Size></Contents>"
                )
        return "".join([*parts, "</ListBucketResult>"]).encode()


def _read(file: Path, method: str, span: str | None) -> tuple[int, dict[str, str], bytes]:
    try:
        handle = os.open(file, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return 404, {}, b""
    try:
        size = os.fstat(handle).st_size
        if method == "HEAD":
            return 200, {"Content-Length": str(size)}, b""
        if span is None:
            return 200, {}, os.pread(handle, size, 0)
        first, _, last = span.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= size:
            return 416, {}, b""
        return 206, {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, os.pread(handle, stop - start, start)
    finally:
        os.close(handle)


async def _serve(root: Path, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(root, delay_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def bucket(root: Path, delay_s: float) -> Iterator[None]:
    """Serve a folder in a process of its own; `s3://b/...` is what lies in it, for the length of a `with` block."""
    command = [sys.executable, "-m", __name__, str(root), str(delay_s)]
    before = dict(os.environ)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{process.stdout.readline().strip()}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_SKIP_SIGNATURE": "true",
        }
        try:
            yield
        finally:
            os.environ.clear()
            os.environ |= before
            process.kill()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))
