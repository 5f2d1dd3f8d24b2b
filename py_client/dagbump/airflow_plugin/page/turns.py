"""Makes requests take turns, so that the page always leaves connections and threads to the rest of the API server.

Only a few requests run at a time, and a request ends when its client has gone. A client that has waited for a second
gets an error, and may try again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import anyio
import anyio.from_thread
from fastapi import HTTPException, Request, Response, status
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

# Per process of the API server, which has 15 database connections and 40 threads by default.
AT_A_TIME = 2
_WAIT_SECONDS = 1.0
RETRY_AFTER_SECONDS = 5

# Of the body of a request, no more is read. The button sends at most 250 ids, and some totals.
_BODY_BYTES = 64 * 1024

_turns = anyio.CapacityLimiter(AT_A_TIME)


class TakingTurns(APIRoute):
    """A route whose requests wait for their turn."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        answer = super().get_route_handler()

        async def answer_in_turn(request: Request) -> Response:
            request = Request(request.scope, _limited(request.receive))
            try:
                await request.body()  # before the turn begins, so that a slow client does not use up a turn
            except ClientDisconnect:
                return Response()  # nobody reads it
            with anyio.CancelScope() as work:
                watching = asyncio.ensure_future(_cancel_when_gone(request, work))
                try:
                    async with _turn():
                        return await answer(request)
                finally:
                    watching.cancel()
            return Response()

        return answer_in_turn


def _limited(receive: Receive) -> Receive:
    """Return the same, but with an error for a body that is too large, before it fills the memory."""
    left = _BODY_BYTES

    async def receive_limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This request is too large.")
        return message

    return receive_limited


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    try:
        with anyio.fail_after(_WAIT_SECONDS):
            await _turns.acquire()
    except TimeoutError as error:
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            "Too many people are looking at this page. Load it again in some seconds.",
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        ) from error
    try:
        yield
    finally:
        _turns.release()


async def _cancel_when_gone(request: Request, work: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    work.cancel()


def stop_if_gone() -> None:
    """End the current work if its client has gone. The working thread calls this before each part of the work."""
    anyio.from_thread.check_cancelled()
