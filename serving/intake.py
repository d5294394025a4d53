"""Submissions of many requests -> one transaction after the other, in a thread of its own; then each gets its answer.

While one batch is stored the next one gathers: so the broker's or database's commit is paid once for all who wait, and
a single submission waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from music_pulse.errors import InputError, PulseError
from serving.errors import ApiError
from serving.metrics import ServerMetrics

logger = logging.getLogger(__name__)

Store = Callable[[Sequence[tuple[str, Sequence[dict[str, Any]]]]], Sequence[PulseError | None]]
"""Stores (user, listens) pairs; returns why each can't be taken, or None. Raises `PulseError`: nothing was stored."""

MOST_LISTENS = 5_000
"""Of one batch, a single submission aside."""

MOST_WAITING = 50_000
"""Listens that may wait; who comes then is told to come again."""

ANSWER_SECONDS = 60.0
BUSY = "Cannot submit listens to queue, please try again later."


class _Waiting(NamedTuple):
    user_name: str
    listens: Sequence[dict[str, Any]]
    answer: asyncio.Future[PulseError | None]
    loop: asyncio.AbstractEventLoop


class Intake:
    """Takes submissions from the event loop; `store` is called in one thread only."""

    def __init__(self, store: Store, metrics: ServerMetrics) -> None:
        self._store = store
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._listens = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Begin to store."""
        self._thread.start()

    def close(self) -> None:
        """Store what waits, then end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    async def submit(self, user_name: str, listens: Sequence[dict[str, Any]]) -> None:
        """Return when the listens are safe. Raises `ApiError`: 400 for what can't be taken, 503 to try again."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[PulseError | None] = loop.create_future()
        with self._changed:
            if self._is_closing or self._listens + len(listens) > MOST_WAITING:
                raise ApiError(BUSY, 503)
            self._listens += len(listens)
            self._waiting.append(_Waiting(user_name, listens, answer, loop))
            self._metrics.waiting.set(self._listens)
            self._changed.notify()
        try:
            refusal = await asyncio.wait_for(answer, ANSWER_SECONDS)
        except TimeoutError:
            raise ApiError(BUSY, 503) from None
        if isinstance(refusal, InputError):
            raise ApiError(f"The listen can't be stored: {refusal}")
        if refusal is not None:
            raise ApiError(BUSY, 503)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if not batch:
                continue
            began = time.perf_counter()
            try:
                answers = self._store([(each.user_name, each.listens) for each in batch])
                self._metrics.store_seconds.observe(time.perf_counter() - began)
                self._metrics.batch_listens.observe(sum(len(each.listens) for each in batch))
            except PulseError as error:
                logger.warning("%d submissions are not stored: %s", len(batch), error)
                answers = [error] * len(batch)
            except Exception:
                logger.exception("%d submissions are not stored", len(batch))
                answers = [PulseError("unforeseen")] * len(batch)
            for each, answer in zip(batch, answers, strict=True):
                _tell(each, answer)

    def _next(self) -> list[_Waiting] | None:
        """Wait for submissions; None when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return None
            batch: list[_Waiting] = []
            size = 0
            while self._waiting and (not batch or size + len(self._waiting[0].listens) <= MOST_LISTENS):
                each = self._waiting.popleft()
                self._listens -= len(each.listens)
                if not each.answer.done():  # else whoever sent it has been told to try again
                    batch.append(each)
                    size += len(each.listens)
            self._metrics.waiting.set(self._listens)
            return batch


def _tell(waiting: _Waiting, answer: PulseError | None) -> None:
    def settle() -> None:
        if not waiting.answer.done():
            waiting.answer.set_result(answer)

    try:
        waiting.loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits
        logger.debug("an answer came too late")
