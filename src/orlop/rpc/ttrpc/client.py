# SPDX-License-Identifier: Apache-2.0
"""A blocking ttrpc client: one call at a time, for command lines and tests."""

import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from orlop.errdefs import DeadlineExceededError, UnavailableError
from orlop.rpc.ttrpc import frame, methods


def socket_path(address: str) -> str:
    """The path in an address such as `unix:///run/x.sock`; a bare path is taken as it is."""
    return address.removeprefix("unix://")


class Client:
    """One connection. Usable in a `with`; not from several threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = frame.Decoder()
        self._stream = -1

    @classmethod
    def connect(cls, address: str, *, timeout: float | None = 5) -> "Client":
        """Connect to a Unix socket. Raises UnavailableError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(socket_path(address))
        except OSError as error:
            sock.close()
            raise UnavailableError(f"connect to {address}: {error.strerror or error}") from None
        return cls(sock)

    def call(
        self,
        service: ServiceDescriptor,
        method: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Make one call and return its response message.

        `timeout` is in seconds, for the whole call. Raises the errdefs error of the peer's status,
        UnavailableError when the connection breaks, DeadlineExceededError.
        """
        types = methods.method_of(service, method)
        self._stream += 2
        deadline = None if timeout is None else time.monotonic() + timeout
        data = methods.encode_request(self._stream, service, method, request, timeout=timeout, metadata=metadata)
        try:
            self._sock.settimeout(timeout)
            self._sock.sendall(data)
            while True:
                for answer in self._receive(deadline):
                    # An earlier call that timed out may still be answered: that answer is nobody's.
                    if answer.stream == self._stream:
                        return methods.decode_response(answer, types)
        except TimeoutError:
            raise DeadlineExceededError(f"{method}: no answer within {timeout} s") from None
        except OSError as error:
            raise UnavailableError(f"{method}: {error.strerror or error}") from None

    def _receive(self, deadline: float | None) -> list[frame.Frame]:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(left)
        data = self._sock.recv(65536)
        if not data:
            raise UnavailableError("ttrpc: closed")
        return self._decoder.feed(data)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
