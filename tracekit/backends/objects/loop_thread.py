"""Clients of asyncio-only libraries: one for each event loop, and a loop in a thread for callers without one."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Generic, TypeAlias, TypeVar

__all__ = ["LoopClients", "LoopThread"]

_T = TypeVar("_T")
_Made: TypeAlias = weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, tuple[AsyncExitStack, asyncio.Future[Any]]
]
"""The client of each event loop, and what closes it."""


class LoopClients(Generic[_T]):
    """Clients made by `make`, which pushes onto the stack what closes them.

    Clients that nobody closes are closed at exit, or when the collector finds them: their libraries
    would print a warning.
    """

    def __init__(self, name: str, make: Callable[[AsyncExitStack], Awaitable[_T]]) -> None:
        self._make = make
        self._thread = LoopThread(name)
        self._made: _Made = weakref.WeakKeyDictionary()
        # Held apart from this object: the collector finalizes the members of a cycle in any order.
        weakref.finalize(self, _abandoned, self._thread, self._made).atexit = False
        _open.add(self)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run the coroutine on the loop in a thread, and return its result."""
        return self._thread.run(coroutine)

    async def client(self) -> _T:
        """Return the client of the running loop; the first caller makes it, others wait for it."""
        loop = asyncio.get_running_loop()
        made = self._made.get(loop)
        if made is None:
            stack = AsyncExitStack()
            made = self._made[loop] = stack, asyncio.ensure_future(self._make(stack))
        client: _T = await asyncio.shield(made[1])
        return client

    def renew(self) -> None:
        """Close the clients; the next requests make others."""
        made = list(self._made.items())
        self._made.clear()
        for loop, (stack, _) in made:
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(stack.aclose(), loop)

    def close(self) -> None:
        """Close the client of the thread, and end it."""
        _open.discard(self)
        if self._thread.running() is not None:
            self._thread.run(self.aclose())
        self._thread.stop()

    async def aclose(self) -> None:
        """Close the client of the running loop."""
        made = self._made.pop(asyncio.get_running_loop(), None)
        if made is not None:
            await made[0].aclose()


class LoopThread:
    """Starts with the first call, and again in a forked child."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run the coroutine on the loop and return its result; the calling thread waits.

        An exception in the waiting thread, such as Ctrl-C, cancels the coroutine.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def running(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop if it runs in this process."""
        return self._loop if self._pid == os.getpid() else None

    def finish(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run the coroutine, then end the thread, without waiting for either."""
        loop = self.running()
        if loop is None:
            coroutine.close()
            return

        async def last() -> None:
            try:
                await coroutine
            finally:
                asyncio.get_running_loop().stop()

        asyncio.run_coroutine_threadsafe(last(), loop)

    def stop(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or self._pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
            return self._loop


_open: weakref.WeakSet[LoopClients[Any]] = weakref.WeakSet()


def _abandoned(thread: LoopThread, made: _Made) -> None:
    """Close what an abandoned client has open. The collector may run in any thread, hence without a wait."""
    loop = thread.running()
    found = made.pop(loop, None) if loop is not None else None
    if found is not None and not sys.is_finalizing():
        thread.finish(found[0].aclose())


def _close_all() -> None:
    """Close at exit what nobody closed."""
    for clients in list(_open):
        clients.close()


atexit.register(_close_all)
