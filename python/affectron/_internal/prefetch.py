"""Prefetching: a thread computes an iterator's next items while the consumer processes the current one.

A thread is used since a forked process could not run the kernels. Tokenizers, disk access and matrix products all
release the interpreter lock, so that the threads do run in parallel.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from affectron._internal.warning import with_caller

T = TypeVar("T")

# Seconds after which the thread, waiting on a full queue, checks that the consumer has not stopped.
_CHECK_INTERVAL = 0.1


@contextmanager
def prefetch(source: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """Yield an iterator over ``source`` that computes up to ``depth`` items ahead in a thread.

    An exception of ``source`` is raised to the consumer at its position. The thread has ended when the block is left.
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    closed = threading.Event()

    def put(last: bool, item: Any) -> bool:
        while not closed.is_set():
            try:
                ready.put((last, item), timeout=_CHECK_INTERVAL)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in source:
                if not put(False, item):
                    return
        except BaseException as error:  # handed over, not swallowed
            put(True, error)
        else:
            put(True, None)

    def items() -> Iterator[T]:
        while True:
            last, item = ready.get()
            if not last:
                yield item
            elif item is None:
                return
            else:
                raise item

    thread = threading.Thread(target=with_caller(work), name="affectron-prefetch", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        closed.set()
        thread.join()
