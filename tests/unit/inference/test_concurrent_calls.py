"""Calls under way at once: each answer has its index, an error comes out, and nothing begins after it."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing

import pytest

from quail_lightning.inference.concurrent_calls import as_answered


def test_answers_come_as_they_are_there_each_with_its_index() -> None:
    second = threading.Event()

    def ask(item: str) -> str:
        if item == "slow":
            second.wait(10)
        return item.upper()

    found = []
    for index, answer in as_answered(ask, ["slow", "quick"], 2):
        found.append((index, answer))
        second.set()
    assert found == [(1, "QUICK"), (0, "SLOW")]
    assert list(as_answered(ask, [], 2)) == []


@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_each_item_is_asked_once_and_no_more_are_under_way_than_allowed(at_once: int) -> None:
    under_way: list[int] = []
    asked: list[int] = []
    most, lock = 0, threading.Lock()
    full = threading.Barrier(min(at_once, 12))

    def ask(item: int) -> int:
        nonlocal most
        with lock:
            asked.append(item)
            under_way.append(item)
            most = max(most, len(under_way))
        full.wait(10)  # so many are indeed under way
        with lock:
            under_way.remove(item)
        return item * item

    assert dict(as_answered(ask, range(12), at_once)) == {item: item * item for item in range(12)}
    assert sorted(asked) == list(range(12))
    assert most == min(at_once, 12)


def test_nothing_begins_after_an_error() -> None:
    asked: list[int] = []

    def ask(item: int) -> int:
        asked.append(item)
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        list(as_answered(ask, [1, 0, 2, 3], 1))
    assert asked == [1, 0]


def test_nothing_begins_after_a_close() -> None:
    asked: list[str] = []
    threads: list[threading.Thread] = []
    closed = threading.Event()

    def ask(item: str) -> str:
        asked.append(item)
        threads.append(threading.current_thread())
        if item == "under way":
            closed.wait(10)
        return item

    with closing(as_answered(ask, ["first", "under way", "never", "never"], 1)) as answers:
        assert next(answers) == (0, "first")
    closed.set()
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert "never" not in asked


def test_a_call_that_hangs_holds_up_no_exit() -> None:
    program = """
import time
from quail_lightning.inference.concurrent_calls import as_answered
list(as_answered(lambda item: 1 // item if item == 0 else time.sleep(100), [1, 0], 2))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
