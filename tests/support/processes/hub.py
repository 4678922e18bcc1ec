"""Serve, on loopback, what huggingface_hub asks of the hub to make a repository and to commit small files."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Hub:
    """What the hub was asked, and how it answers."""

    status: int = 200
    """Other than 200: of every answer."""
    made: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


@contextlib.contextmanager
def hub_on_loopback() -> Iterator[Hub]:
    """Yield a hub that the client asks for the length of a `with` block, with a token of the test's."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with (
            mock.patch("huggingface_hub.constants.ENDPOINT", url),
            mock.patch("huggingface_hub.hf_api.constants.ENDPOINT", url),
            mock.patch.dict("os.environ", {"HF_TOKEN": "hf_test", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}),
        ):
            yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if hub.status != 200:
                return self._answer({"error": "no"}, hub.status)
            if self.path == "/api/repos/create":
                hub.made.append(json.loads(body))
                return self._answer({"url": f"http://{self.headers['Host']}/org/name"})
            if "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                return self._answer(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
                )
            if "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return self._answer({"commitUrl": f"http://{self.headers['Host']}/org/name/commit/1", "commitOid": "1"})
            return self._answer({}, 200)

        def do_GET(self) -> None:
            self._answer({"error": "no"} if hub.status != 200 else {"id": "org/name", "sha": "1"}, hub.status)

        def _answer(self, content: dict[str, Any], status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
