"""Work that is done while the model trains on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """A thread that does what it is given, in that order.

    What goes wrong in it is raised where the next work is given, or where it is waited for.

    Args:
        name: name of the thread.
        most: so much work may wait before its giver waits too.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[Any]] = deque()

    def add(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Gives it work: a function, and its arguments, which must not change any more.

        Returns:
            What will hold the function's result.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        future = self._thread.submit(work, *args, **kwargs)
        self._pending.append(future)
        while self._pending and (
            self._pending[0].done() or len(self._pending) > self._most
        ):
            self._pending.popleft().result()
        return future

    def wait(self) -> None:
        """Waits until all is done."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """Waits until all is done, and ends the thread; more work begins another one."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        self.wait()
