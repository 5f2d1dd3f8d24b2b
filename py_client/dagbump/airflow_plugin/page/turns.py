"""Requests take turns, so that the page leaves connections and threads to the rest of the API server, whatever comes.

Few at a time are worked on, and none whose client has gone. Who has waited for a second is told to come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
from fastapi import HTTPException, Request, Response, status
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

# In each process of the API server, which has 15 connections to the database and 40 threads by default.
AT_A_TIME = 2
_WAIT_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 5

_turns = anyio.CapacityLimiter(AT_A_TIME)


class TakingTurns(APIRoute):
    """A route of which a request has to wait for its turn."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_in_turn(request: Request) -> Response:
            try:
                await request.body()  # who sends it slowly keeps nobody waiting
            except ClientDisconnect:
                return Response()  # which nobody reads
            with anyio.CancelScope() as work:
                watching = asyncio.ensure_future(_cancel_when_gone(request, work))
                try:
                    async with _turn():
                        return await answer(request)
                finally:
                    watching.cancel()
            return Response()

        return answer_in_turn


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    try:
        with anyio.fail_after(_WAIT_SECONDS):
            await _turns.acquire()
    except TimeoutError as error:
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            "Too many people are looking at this page. Load it again in some seconds.",
            {"Retry-After": str(_RETRY_AFTER_SECONDS)},
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
    """End the work under way where its client has gone; to be called in the thread that does it, before each part."""
    anyio.from_thread.check_cancelled()
