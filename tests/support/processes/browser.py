"""Headless Chromium for tests: opens a page, measures it from within, and tells of everything that went wrong.

Speaks the DevTools protocol over tornado's websocket, which comes with dask; nothing is installed for it.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDED = "USJEPA_NEED_BROWSER"
_PATIENCE = 120.0
"""Seconds for Chromium to start, and for any one answer of it."""

_TROUBLE: dict[str, Callable[[Any], str]] = {
    "Runtime.exceptionThrown": lambda p: str(p["exceptionDetails"]["text"]),
    "Log.entryAdded": lambda p: f"{p['entry']['level']}: {p['entry']['text']}",
    "Runtime.consoleAPICalled": lambda p: f"console.{p['type']}",
    "Network.loadingFailed": lambda p: f"loading failed: {p['errorText']}",
}


def find_browser() -> str:
    """Return Chromium's place; skips the test where there is none, or fails it where one is needed."""
    found = next((place for name in NAMES if (place := shutil.which(name))), None)
    if found is None:
        reason = f"no Chromium here (looked for {', '.join(NAMES)}); Debian: apt install chromium"
        if os.environ.get(NEEDED) == "1":
            pytest.fail(f"{reason}. {NEEDED}=1 says that it must be here.")
        pytest.skip(reason)
    return found


@dataclass
class Seen:
    """What came of opening a page."""

    answers: list[Any] = field(default_factory=list)
    """What each script gave, in their order."""
    trouble: list[str] = field(default_factory=list)
    """Errors, warnings and console messages."""
    requested: list[str] = field(default_factory=list)
    """Addresses that were fetched, data: URIs cut short."""
    screenshot: bytes = b""
    """PNG of the whole page."""
    pdf: bytes = b""


def look(page: Path, scripts: list[str], width: int = 1280, dark: bool = False, loads: int = 1) -> Seen:
    """Open a page from disk at a width in pixels, run scripts in it, and take a picture of it on screen and paper.

    In a tab of its own of the one browser that this process starts at its first look. With `loads`, wait until the page
    has loaded itself so often.
    """
    if not _started or not _started[-1].runs:
        _started.append(_Chromium())
    with _started[-1].tab() as address:
        return asyncio.run(_look(address, page.resolve().as_uri(), scripts, width, dark, loads))


class _Chromium:
    """Headless Chromium with a profile of its own, which ends with this process."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="usjepa-browser-"))
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        offline = ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
        place = ["--no-proxy-server", f"--user-data-dir={self._folder}", "--remote-debugging-port=0", "about:blank"]
        with (self._folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [find_browser(), *arguments, *offline, *place],
                stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(self._folder)},
            )  # fmt: skip
        atexit.register(self._end)
        self._port = self._listens()

    @property
    def runs(self) -> bool:
        """Return whether it is there."""
        return self._process.poll() is None

    @contextmanager
    def tab(self) -> Iterator[str]:
        """Open a tab for the length of a `with` block; yield the address of its websocket."""
        made = json.loads(self._asked("new?about:blank", "PUT"))
        try:
            yield str(made["webSocketDebuggerUrl"])
        finally:
            self._asked(f"close/{made['id']}")

    def _asked(self, what: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/{what}", method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_PATIENCE) as answer:
            return bytes(answer.read())

    def _listens(self) -> str:
        """Return the port that it listens on, once it does."""
        port = self._folder / "DevToolsActivePort"
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self.runs:
            if port.is_file() and "\n" in port.read_text():
                return port.read_text().splitlines()[0]
            time.sleep(0.05)
        log = (self._folder / "chromium.log").read_text(errors="replace")
        pytest.fail(f"Chromium did not start: {log[-2000:]}")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


_started: list[_Chromium] = []


async def _look(address: str, page: str, scripts: list[str], width: int, dark: bool, loads: int) -> Seen:
    from tornado.websocket import websocket_connect

    connection = await websocket_connect(address, max_message_size=1 << 28)
    tab = _Tab(connection)
    try:
        await tab.do("Page.bringToFront")
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.do(f"{domain}.enable")
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await tab.do("Emulation.setDeviceMetricsOverride", **screen)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await tab.do("Emulation.setEmulatedMedia", features=scheme)
        await tab.do("Page.navigate", url=page)
        for _ in range(loads):
            await tab.until("Page.loadEventFired")
        for script in scripts:
            told = await tab.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
            assert "exceptionDetails" not in told, told["exceptionDetails"]
            tab.seen.answers.append(told["result"].get("value"))
        picture = await tab.do("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        tab.seen.screenshot = base64.b64decode(picture["data"])
        tab.seen.pdf = base64.b64decode((await tab.do("Page.printToPDF", printBackground=True))["data"])
    finally:
        connection.close()
        while await connection.read_message() is not None:  # the socket is closed once the other side has said so
            pass
    return tab.seen


class _Tab:
    """A tab of Chromium: asks one thing at a time and notes what it says meanwhile."""

    def __init__(self, connection: Any) -> None:
        self.seen = Seen()
        self._connection = connection
        self._number = 0

    async def do(self, method: str, **parameters: Any) -> Any:
        """Return the answer to a command."""
        self._number += 1
        await self._connection.write_message(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (message := await self._next()).get("id") != self._number:
            pass
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    async def until(self, event: str) -> None:
        """Wait for an event."""
        while (await self._next()).get("method") != event:
            pass

    async def _next(self) -> dict[str, Any]:
        text = await asyncio.wait_for(self._connection.read_message(), _PATIENCE)
        assert text is not None, "Chromium closed the connection"
        message: dict[str, Any] = json.loads(text)
        method, told = message.get("method", ""), message.get("params", {})
        if method in _TROUBLE:
            self.seen.trouble.append(_TROUBLE[method](told))
        if method == "Network.requestWillBeSent":
            self.seen.requested.append(told["request"]["url"][:200])
        return message
