"""Work of threads: done ahead of its turn, as the next batches while a network computes, or once for all of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """A function of numbers that are mostly asked for in order, computed ahead of that by threads.

    What `take` returns is what the function returns, however many threads there are. At most `count` results wait.

    Arguments:
        make: the function, of a number from 0 on; called by several threads at once.
        count: how far it is computed ahead of the number that was asked for last; 0: not at all.
        threads: how many compute.
    """

    def __init__(self, make: Callable[[int], T], count: int, threads: int) -> None:
        self.make, self.count, self.threads = make, count, threads
        self._waiting: dict[int, Future[T]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def take(self, number: int) -> T:
        """The result of a number. What the function raises for it is raised here."""
        if self.count == 0:
            return self.make(number)
        wanted = range(number, number + self.count + 1)
        for other in [other for other in self._waiting if other not in wanted]:
            self._waiting.pop(other).cancel()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "ahead")
        for other in wanted:
            if other not in self._waiting:
                self._waiting[other] = self._pool.submit(self.make, other)
        return self._waiting.pop(number).result()

    def close(self) -> None:
        """End the threads, once each has finished what it is at; `take` starts them again."""
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


class Recent(Generic[T]):
    """What a function of numbers returned for those that were asked for last; threads wait for what another computes.

    Arguments:
        make: the function.
        count: of how many numbers the results are kept.
    """

    def __init__(self, make: Callable[[int], T], count: int) -> None:
        self.make, self.count = make, count
        self._kept: OrderedDict[int, Future[T]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many results are kept now."""
        return len(self._kept)

    def take(self, number: int) -> T:
        """The result of a number. What the function raises for it is raised here, and tried again the next time."""
        with self._lock:
            found = self._kept.get(number)
            mine = found is None
            if found is None:
                found = self._kept[number] = Future()
            self._kept.move_to_end(number)
            while len(self._kept) > self.count:
                self._kept.popitem(last=False)
        if mine:
            try:
                found.set_result(self.make(number))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(number, None)
                found.set_exception(error)
        return found.result()
