# SPDX-License-Identifier: Apache-2.0
"""The shim's only loop: epoll, timers, and coroutines that wait for either."""

import heapq
import select
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_PATIENCE = 100


class Timer:
    """A call that is due at a time; made by `Loop.call_later`."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call after all."""
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return self.due < other.due


class Future(Generic[T]):
    """A result that comes later; `await` it in a coroutine of the loop, or add a callback."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def set_result(self, value: T) -> None:
        """Settle with a value, unless it is settled already."""
        if not self.done:
            self._value = value
            self._settle()

    def set_error(self, error: BaseException) -> None:
        """Settle with an error, unless it is settled already."""
        if not self.done:
            self._error = error
            self._settle()

    def _settle(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_done(self, callback: Callable[[], None]) -> None:
        """Call when settled; at once if it is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def result(self) -> T:
        """The value; raises the error it was settled with."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def __await__(self) -> Generator["Future[T]", None, T]:
        if not self.done:
            yield self
        return self.result()


class Lock:
    """Mutual exclusion between coroutines, first come first served: `async with lock:`."""

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[Future[None]] = deque()

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        turn: Future[None] = Future()
        self._waiting.append(turn)
        await turn

    async def __aexit__(self, *_: object) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._held = False


class Loop:
    """Calls back when descriptors are ready and times are due, in one thread, until `stop`.

    An exception that a callback lets out goes to `on_error(where, error)` and the loop goes on; a descriptor whose
    callback fails again and again is taken out. Without `on_error` the exception ends `run`.
    """

    def __init__(self, on_error: Callable[[str, Exception], None] | None = None) -> None:
        self._on_error = on_error
        self._failures: dict[int, int] = {}
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._ready: deque[Callable[[], None]] = deque()
        self._stopping = False

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever `fd` is ready (level-triggered; EPOLLERR and EPOLLHUP always count)."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        """Change the events waited for."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget `fd`; call before closing it."""
        self._epoll.unregister(fd)
        del self._callbacks[fd]
        self._failures.pop(fd, None)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call once after that time."""
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call in the next round."""
        self._ready.append(callback)

    def sleep(self, seconds: float) -> Future[None]:
        """A future that is settled after that time."""
        future: Future[None] = Future()
        self.call_later(seconds, lambda: future.set_result(None))
        return future

    def readable(self, fd: int) -> Future[int]:
        """A future that is settled, with the events, when `fd` can be read. One at a time for one `fd`."""
        future: Future[int] = Future()

        def ready(events: int) -> None:
            self.remove(fd)
            future.set_result(events)

        self.add(fd, select.EPOLLIN, ready)
        return future

    def spawn(self, coroutine: Coroutine[Future[Any], None, T]) -> Future[T]:
        """Run a coroutine at once up to its first wait; the future has its result."""
        result: Future[T] = Future()

        def step() -> None:
            try:
                waiting = coroutine.send(None)
            except StopIteration as stop:
                result.set_result(stop.value)
            except Exception as error:  # noqa: BLE001 - handed to whoever looks at the result
                result.set_error(error)
            else:
                waiting.on_done(resume)

        def resume() -> None:
            self._ready.append(step)

        step()
        return result

    def stop(self) -> None:
        """Let `run` return after the callback that is running."""
        self._stopping = True

    def run(self) -> None:
        """Run until `stop`."""
        self._stopping = False
        while not self._stopping:
            try:
                self._run_ready()
                if self._stopping:
                    break
                self._run_once()
            except Exception as error:
                if self._on_error is None:
                    raise
                self._on_error("loop", error)

    def _run_once(self) -> None:
        for fd, events in self._epoll.poll(self._timeout()):
            callback = self._callbacks.get(fd)
            if callback is not None:  # an earlier callback of this round may have removed it
                try:
                    callback(events)
                except Exception:
                    self._failed(fd)
                    raise
                if self._ready:
                    self._run_ready()
        self._run_timers()

    def _failed(self, fd: int) -> None:
        self._failures[fd] = self._failures.get(fd, 0) + 1
        if self._failures[fd] >= _PATIENCE and fd in self._callbacks:
            self.remove(fd)

    def close(self) -> None:
        """Release the epoll descriptor."""
        self._epoll.close()

    def _run_ready(self) -> None:
        while self._ready:
            self._ready.popleft()()

    def _timeout(self) -> float:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        return max(0.0, self._timers[0].due - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                callback()
