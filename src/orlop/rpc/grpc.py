# SPDX-License-Identifier: Apache-2.0
"""Glue between orlop's errors and grpc.aio's clients; never imported by a process that forks."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import grpc.aio

from orlop.errdefs import OrlopError
from orlop.rpc import status


def from_rpc_error(error: grpc.aio.AioRpcError) -> OrlopError:
    """The errdefs error that a failed client call stands for."""
    return status.error_for(error.code().value[0], error.details() or error.code().name.lower())


@contextlib.contextmanager
def rpc_errors() -> Iterator[None]:
    """Turn grpc.aio.AioRpcError raised inside the `with` into the errdefs error it stands for."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def call(awaitable: Awaitable[Any]) -> Any:
    """Await a unary call, as in `await call(stub.Get(request))`; raises errdefs errors."""
    with rpc_errors():
        return await awaitable


async def stream(calls: Any) -> AsyncIterator[Any]:
    """Iterate a server-streaming call; raises errdefs errors."""
    with rpc_errors():
        async for message in calls:
            yield message
