"""A stop asked for is noticed at a safe point; a second Ctrl-C does not wait; the process then says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from usjepa.cache.errors import Interrupted
from usjepa.cache.interrupt import graceful_interrupts


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


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="on the way"), graceful_interrupts():
        raise ValueError("on the way")
    assert signal.getsignal(signal.SIGINT) is before


LONG_WORK = """
import time, click
from usjepa.cache.command_line import ends_well
from usjepa.cache.interrupt import graceful_interrupts

@click.command()
@ends_well
def main():
    with graceful_interrupts() as stop:
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
            {at_safe_point}
main()
"""


def ended(at_safe_point: str, signals: int) -> tuple[int, str]:
    """Run long work as a process of its own, send Ctrl-C some times, and return its exit code and messages."""
    program = LONG_WORK.format(at_safe_point=at_safe_point)
    work = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert work.stdout is not None
    for _ in range(signals):
        assert work.stdout.readline() == "ready\n"
        work.send_signal(signal.SIGINT)
    _, messages = work.communicate(timeout=120)
    return work.returncode, messages


def test_ctrl_c_ends_a_command_with_75_and_how_to_go_on() -> None:
    code, messages = ended("stop.check('Run the same command again.')", 1)
    assert (code, messages) == (75, "interrupted: stopped by SIGINT. Run the same command again.\n")


def test_a_second_ctrl_c_ends_work_that_reaches_no_safe_point() -> None:
    code, messages = ended("if stop.requested: print('ready', flush=True)", 2)
    assert (code, messages) == (75, "interrupted: run the same command again to go on.\n")
