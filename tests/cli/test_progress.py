"""Progress is a bar for a person and plain lines for a log."""

from __future__ import annotations

import logging
import os
import pty
import termios

import pytest

from tests.support.processes.commands import run_python
from usjepa.cache.command_line import log_lines_on_stderr
from usjepa.cache.terminal import progress as progress_module
from usjepa.cache.terminal.progress import ProgressBar


def test_a_log_gets_a_closing_line_with_count_rate_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(10, "build") as shown:
        for _ in range(10):
            shown.update(1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("build: 10 of 10 rows in ")
    assert "rows/s" in line


def test_a_long_job_writes_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_LINE_EVERY_S", 0.0)
    with ProgressBar(4, "build") as shown:
        shown.update(1, busy="97 %")
        shown.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert "1 of 4" in lines[0]
    assert "busy 97 %" in lines[0]
    assert "s left" in lines[0]
    assert len(lines) == 2, "a closing line that repeats the last one tells nothing"


def test_a_job_that_fails_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ProgressBar(10, "build")
    shown.update(3)
    with pytest.raises(ZeroDivisionError), shown:
        shown.update(1 // 0)
    assert "build: 3 of 10 rows" in capsys.readouterr().err


def test_a_job_with_nothing_done_stays_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(0, "build"):
        pass
    assert capsys.readouterr().err == ""


def test_what_the_package_reports_is_a_line_on_stderr_for_the_length_of_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reports = logging.getLogger("usjepa.cache.building")
    reports.info("before")
    with log_lines_on_stderr(), ProgressBar(1, "build"):
        reports.info("sealed")
        reports.warning("skipped a.png: cut short")
        reports.debug("details")
    reports.info("after")
    assert capsys.readouterr().err == "sealed\nwarning: skipped a.png: cut short\n"


def test_a_terminal_gets_a_bar() -> None:
    program = (
        "import logging; from usjepa.cache.command_line import log_lines_on_stderr\n"
        "from usjepa.cache.terminal.progress import ProgressBar\n"
        "with log_lines_on_stderr(), ProgressBar(3, 'b') as p: p.update(3); logging.getLogger('usjepa.x').info('hello')"
    )
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 100))
    run_python("-c", program, stderr=side)
    os.close(side)
    printed = os.read(main, 65536).decode()
    os.close(main)
    assert "\r" in printed
    assert "100%" in printed
    assert "hello" in printed
