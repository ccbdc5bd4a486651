"""Work ahead in a thread: what an iterator does next is done while the consumer is busy with what it has given.

A thread, not a process: a forked one could not run the kernels, and tokenizers, the disk and the model's products all
let other threads run meanwhile.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

# How long a full queue is waited for before the thread looks whether anyone still wants its items.
_PATIENCE = 0.1


@contextmanager
def prefetch(source: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """Yield an iterator of the items of ``source``, of which up to ``depth`` are made ahead in a thread.

    An exception of ``source`` reaches the consumer in its place. When the block is left the thread has ended.
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    closed = threading.Event()

    def put(last: bool, item: Any) -> bool:
        while not closed.is_set():
            try:
                ready.put((last, item), timeout=_PATIENCE)
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

    thread = threading.Thread(target=work, name="affectron-prefetch", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        closed.set()
        thread.join()
