"""Progress is a bar for a person and plain lines for a log; a stop asked for is noticed at a safe point."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading

import pytest

from usjepa.cache import progress as progress_module
from usjepa.cache.errors import Interrupted
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.progress import Progress


def test_a_log_gets_a_closing_line_with_count_rate_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "build") as shown:
        for _ in range(10):
            shown.update(1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("build: 10 of 10 rows in ")
    assert "rows/s" in line


def test_a_long_job_writes_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_LINE_EVERY_S", 0.0)
    with Progress(4, "build") as shown:
        shown.update(1, busy="97 %")
        shown.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert "1 of 4" in lines[0]
    assert "busy 97 %" in lines[0]
    assert "s left" in lines[0]


def test_a_terminal_gets_a_bar() -> None:
    program = "from usjepa.cache.progress import Progress\nwith Progress(3, 'b') as p: p.update(3); p.note('hello')"
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 100))
    subprocess.run([sys.executable, "-c", program], stderr=side, check=True)
    os.close(side)
    printed = os.read(main, 65536).decode()
    os.close(main)
    assert "\r" in printed
    assert "100%" in printed
    assert "hello" in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_at_the_next_safe_point_only(number: signal.Signals) -> None:
    with graceful_interrupts() as stop:
        stop.check("again")
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(Interrupted, match=rf"stopped by {number.name}\. again"):
            stop.check("again")


def test_a_second_ctrl_c_does_not_wait() -> None:
    with graceful_interrupts() as stop:
        stop.request(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.request(signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with graceful_interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_thread_runs_without_handlers() -> None:
    seen: list[bool] = []

    def work() -> None:
        with graceful_interrupts() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
