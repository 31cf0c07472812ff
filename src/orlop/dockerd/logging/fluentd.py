# SPDX-License-Identifier: Apache-2.0
"""The log driver fluentd: the Forward protocol, version 1, with acknowledgements where they are asked for."""

import base64
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from orlop.dockerd.config import parse_size
from orlop.dockerd.durations import parse_duration
from orlop.dockerd.logging.collector import Address, Message, Stream, client_tls, parse_address
from orlop.dockerd.logging.options import boolean
from orlop.errdefs import InvalidArgumentError

_PORT = 24224
_ACK_SECONDS = 30.0
_EVENT_TIME = 0
"""Number of the extension type that holds seconds and nanoseconds."""


class Settings(NamedTuple):
    """The options that have an effect; `wait` is how long an acknowledgement may take, in seconds."""

    address: Address
    asynchronous: bool
    precise: bool
    acknowledged: bool
    wait: float


def settings(options: Mapping[str, str]) -> Settings:
    """Raises InvalidArgumentError.

    How often and how long to try again, and how much to remember meanwhile, is checked and no more: what could not
    be sent stays in the log's file, and is tried again for as long as it takes.
    """
    given = {key.removeprefix("fluentd-"): value for key, value in options.items() if value}
    if "buffer-limit" in given:
        parse_size(given["buffer-limit"], "fluentd-buffer-limit")
    retries = given.get("max-retries", "0")
    if not retries.isdecimal() or int(retries) > 0x7FFFFFFF:
        raise InvalidArgumentError("invalid fluentd-max-retries: value out of range")
    for name in ("retry-wait", "read-timeout", "write-timeout"):
        if parse_duration(given.get(name, "0s"), f"fluentd-{name}") < 0:
            raise InvalidArgumentError(
                f"invalid value for fluentd-{name}: value must be a duration that is non-negative"
            )
    _check_interval(given.get("async-reconnect-interval", ""))
    return Settings(
        _address(options.get("fluentd-address", "")),
        boolean(given.get("async", "false"), "fluentd-async"),
        boolean(given.get("sub-second-precision", "false"), "fluentd-sub-second-precision"),
        boolean(given.get("request-ack", "false"), "fluentd-request-ack"),
        parse_duration(given.get("read-timeout", "0s"), "fluentd-read-timeout") or _ACK_SECONDS,
    )


def _check_interval(text: str) -> None:
    seconds = parse_duration(text or "0s", "fluentd-async-reconnect-interval")
    if seconds and not 0.1 <= seconds <= 10:
        raise InvalidArgumentError(
            f'invalid value for fluentd-async-reconnect-interval: value ("{text}") must be between 100ms and 10s'
        )


def _address(text: str) -> Address:
    whole = text if "://" in text else f"tcp://{text}"
    try:
        address = parse_address(whole, _PORT)
        if address.scheme == "unix":
            if not address.path.strip("/"):
                raise InvalidArgumentError("path is empty")
            return address
        if address.scheme not in ("tcp", "tls"):
            raise InvalidArgumentError(f"unsupported scheme: '{address.scheme}'")
        if "/" in whole.partition("://")[2]:
            raise InvalidArgumentError("should not contain a path element")
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"invalid fluentd-address ({text}): {error}") from None
    return address._replace(host=address.host or "127.0.0.1")


class Fluentd:
    """The collector; `fields` go with every message."""

    def __init__(self, options: Mapping[str, str], tag: str, fields: Mapping[str, str]) -> None:
        """Raises InvalidArgumentError."""
        self._settings = settings(options)
        self._tag = tag
        self._fields = fields
        secure = self._settings.address.scheme == "tls"
        self._stream = Stream(self._settings.address, client_tls("", "", "", verify=True) if secure else None)

    def connects_first(self) -> bool:
        """Unless `fluentd-async`, a container does not start without its collector."""
        return not self._settings.asynchronous

    async def connect(self) -> None:
        """Raises OSError, TimeoutError."""
        await self._stream.connect()

    async def send(self, messages: Sequence[Message]) -> None:
        """With acknowledgement: they have arrived. Raises OSError, TimeoutError."""
        chunk = base64.b64encode(os.urandom(16)).decode()
        options: dict[str, Any] = {"size": len(messages)}
        if self._settings.acknowledged:
            options["chunk"] = chunk
        entries = [[self._time(message.time), self._record(message)] for message in messages]
        await self._stream.send(msgspec.msgpack.encode([self._tag, entries, options]))
        if self._settings.acknowledged:
            await self._await_ack(chunk)

    async def close(self) -> None:
        """Close the connection."""
        await self._stream.close()

    async def _await_ack(self, chunk: str) -> None:
        answer = b""
        while True:
            answer += await self._stream.receive(self._settings.wait)
            try:
                told = msgspec.msgpack.decode(answer, type=dict[str, str])
            except msgspec.ValidationError as error:
                raise ConnectionError(f"the collector's acknowledgement is none: {error}") from None
            except msgspec.DecodeError:
                continue  # not all of it is here
            if told.get("ack") != chunk:
                raise ConnectionError("the collector acknowledges something else")
            return

    def _time(self, moment: int) -> int | msgspec.msgpack.Ext:
        seconds, fraction = divmod(moment, 1_000_000_000)
        if not self._settings.precise:
            return seconds
        return msgspec.msgpack.Ext(_EVENT_TIME, struct.pack(">II", seconds, fraction))

    def _record(self, message: Message) -> dict[str, str]:
        record = {**self._fields, "source": message.stream, "log": message.line}
        if message.partial is not None:
            record["partial_message"] = "true"
            record["partial_id"] = message.partial.id
            record["partial_ordinal"] = str(message.partial.ordinal)
            record["partial_last"] = "true" if message.partial.last else "false"
        return record
