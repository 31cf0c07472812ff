# SPDX-License-Identifier: Apache-2.0
"""Glue between orlop's errors and grpc.aio servers and clients; never imported by a process that forks."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from orlop.errdefs import OrlopError
from orlop.rpc import status

_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_Context = grpc.aio.ServicerContext[Any, Any]


def status_code(error: BaseException) -> grpc.StatusCode:
    """The gRPC status code that stands for `error`."""
    return _BY_NUMBER[status.code_of(error)]


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


async def abort(context: _Context, error: BaseException) -> NoReturn:
    """End a server call with the status that stands for `error`."""
    await context.abort(status_code(error), status.message_of(error))


class _Generic:
    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Nothing: they are among the generic ones."""


def by_generic_handlers(server: grpc.aio.Server) -> grpc.aio.Server:
    """What to give to generated code in a server's place.

    It registers each method besides adding a generic handler. For each of those grpc.aio keeps a task waiting, and
    looks through all of them at every call of any.
    """
    return cast(grpc.aio.Server, _Generic(server))


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose handler raises an OrlopError with that error's status, and any other error with UNKNOWN.

    `on_unexpected(method, error)` is told of errors that are no OrlopError, which are bugs and belong in the log.
    """

    def __init__(self, on_unexpected: Callable[[str, Exception], None] | None = None) -> None:
        self._on_unexpected = on_unexpected

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of one call (grpc.aio calls this)."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behaviour: Any = self._wrap_stream(
                method, handler.stream_stream if handler.request_streaming else handler.unary_stream
            )
        else:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            behaviour = self._wrap_unary(
                method, handler.stream_unary if handler.request_streaming else handler.unary_unary
            )
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    async def _fail(self, method: str, error: Exception, context: _Context) -> NoReturn:
        if not isinstance(error, OrlopError) and self._on_unexpected is not None:
            self._on_unexpected(method, error)
        await abort(context, error)

    def _wrap_unary(self, method: str, inner: Callable[[Any, _Context], Awaitable[Any]]) -> Any:
        async def unary(request: Any, context: _Context) -> Any:
            try:
                return await inner(request, context)
            except (grpc.aio.AbortError, grpc.RpcError):
                raise
            except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
                await self._fail(method, error, context)

        return unary

    def _wrap_stream(self, method: str, inner: Callable[[Any, _Context], Any]) -> Any:
        async def streaming(request: Any, context: _Context) -> AsyncIterator[Any]:
            try:
                result = inner(request, context)
                if hasattr(result, "__aiter__"):
                    async for response in result:
                        yield response
                else:  # a handler in the context.write() style
                    await result
            except (grpc.aio.AbortError, grpc.RpcError):
                raise
            except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
                await self._fail(method, error, context)

        return streaming
