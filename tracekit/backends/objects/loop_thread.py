"""An event loop in a thread, to call an asyncio-only library from threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["LoopThread"]

_T = TypeVar("_T")


class LoopThread:
    """Starts with the first call, and again in a forked child."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run the coroutine on the loop and return its result; the calling thread waits."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running()).result()

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
