"""Calls that wait for an answer from elsewhere, several at once, none of which holds up the end of the program."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def as_answered(
    ask: Callable[[Item], Answer], items: Sequence[Item], at_once: int
) -> Generator[tuple[int, Answer], None, None]:
    """Index and answer of each item, in the order in which the answers come.

    The threads are daemons: the interpreter joins those of ``ThreadPoolExecutor`` before it ends, whatever
    ``shutdown`` was told, so a server that hangs would hold up an error or Ctrl-C until its time is over.

    Args:
        ask: called in a thread, once for each item.
        items: to ask for.
        at_once: most calls under way.

    Raises:
        Exception: of the first call that fails. After it, and after ``close``, no further call begins; those under
            way are left to themselves.
    """
    waiting = deque(enumerate(items))
    answered: SimpleQueue[tuple[int, Future[Answer]]] = SimpleQueue()

    def work() -> None:
        while True:
            try:
                index, item = waiting.popleft()
            except IndexError:
                return
            future: Future[Answer] = Future()
            try:
                future.set_result(ask(item))
            except BaseException as error:  # raised where the answer is taken
                waiting.clear()
                future.set_exception(error)
            answered.put((index, future))

    try:
        for _ in range(min(at_once, len(items))):
            threading.Thread(target=work, daemon=True).start()
        for _ in items:
            index, future = answered.get()
            yield index, future.result()
    finally:
        waiting.clear()
