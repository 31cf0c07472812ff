# SPDX-License-Identifier: Apache-2.0
"""The server's side of one HTTP/2 connection: frames in, frames out, and both directions' flow control."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Generic, TypeVar

from orlop.rpc.http2 import frames
from orlop.rpc.http2.frames import ConnectionFault
from orlop.rpc.http2.headers import MAX_LIST, BlockReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.rpc.http2.fields import Field
    from orlop.rpc.http2.stream import Stream

H = TypeVar("H")

STREAM_WINDOW = 1 << 20  # bytes that a peer may send on a stream before somebody has taken them
_CONNECTION_WINDOW = 1 << 24
_WRITE_BUFFER = 1 << 20  # bytes that wait for a peer that reads slowly before no more data is sent
_CONTROL_LIMIT = 10_000  # answers to pings and the like that may wait for such a peer
_LINGER = 0.004  # seconds; Go's client pings with the data that it gets, to measure the way
_SETTINGS = {frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW, frames.MAX_HEADER_LIST_SIZE: MAX_LIST}


class Connection(asyncio.Protocol, Generic[H]):
    """Serves one peer. `interpret` makes of header fields what `open_stream` gets to open a stream with.

    What is written within one turn of the event loop, or while some is handled, leaves in one system call.
    """

    def __init__(
        self,
        interpret: Callable[[tuple[Field, ...]], H],
        open_stream: Callable[[Connection[H], int, H], Stream],
        on_closed: Callable[[Connection[H]], None],
    ) -> None:
        self._blocks = BlockReader(interpret)
        self._open_stream = open_stream
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self._greeted = False
        self.streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._leaving = False
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and bytes of a block that goes on
        self._out: list[bytes] = []
        self._size = 0  # bytes of it
        self._flushing = self._lingering = False  # whether `flush`, `_flush_late` will be called
        self._receiving = False  # it is `data_received` that will call `flush`
        self._paused = False
        self._controls = 0  # since the peer last read what was written
        self.window = frames.WINDOW  # bytes that may be sent
        self.stream_window = frames.WINDOW  # with which the peer's streams begin
        self.frame_size = frames.FRAME_SIZE
        self._received = 0  # bytes that the peer has not been given back
        self._waiting: dict[Stream, None] = {}  # streams that wait for the connection, in order
        self._handlers = {
            frames.DATA: self._data,
            frames.HEADERS: self._headers,
            frames.PRIORITY: self._ignore,
            frames.RST_STREAM: self._rst_stream,
            frames.SETTINGS: self._settings,
            frames.PUSH_PROMISE: self._push_promise,
            frames.PING: self._ping,
            frames.GOAWAY: self._ignore,
            frames.WINDOW_UPDATE: self._window_update,
            frames.CONTINUATION: self._continuation,
        }

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(_WRITE_BUFFER)
        self.write(frames.settings(_SETTINGS) + frames.window_update(0, _CONNECTION_WINDOW - frames.WINDOW))

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._unread:
            data = self._unread + data
        self._receiving = True
        try:
            self._unread = data[self._handle(data) :]
        except ConnectionFault as fault:
            self.go_away(fault.code, str(fault))
            self.close()
        finally:
            self._receiving = False
        if self._flushing:
            self.flush()
        elif (
            self._out and not self._lingering
        ):  # answers to frames: with the next answer to a call, if it comes soon
            self._lingering = True
            self._loop.call_later(_LINGER, self._flush_late)

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has read."""
        self._paused = False
        self._controls = 0
        self._pump_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for answers any more."""
        self._transport = None
        self._out.clear()
        self._waiting.clear()
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.lost()
        self._on_closed(self)

    # What streams and the server call.

    def write(self, data: bytes, *, soon: bool = True) -> None:
        """Send at the end of this turn of the event loop, now if not `soon`, or when much is to be sent."""
        self._out.append(data)
        self._size += len(data)
        if self._size > _WRITE_BUFFER:
            self.flush()  # and learn whether the peer reads
        elif self._receiving:
            self._flushing = True
        elif not soon:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send now."""
        self._flushing = False
        self._size = 0
        if self._out and self._transport is not None:
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
        self._out.clear()

    def may_send(self) -> int:
        """Bytes of data that may be sent now."""
        return 0 if self._paused or self._transport is None else self.window

    def wait(self, stream: Stream) -> None:
        """Call the stream's `pump` when the connection may send again."""
        self._waiting[stream] = None

    def forget(self, stream: Stream) -> None:
        """The stream is over."""
        self.streams.pop(stream.id, None)
        self._waiting.pop(stream, None)

    def go_away(self, code: int = frames.NO_ERROR, reason: str = "") -> None:
        """Tell the peer that no new streams are served."""
        self._leaving = True
        self.write(frames.goaway(self._last_stream, code, reason))

    def close(self) -> None:
        """Send what was written, and close; at once where the peer does not read."""
        self.flush()
        if self._paused:
            self.abort()
        elif self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _control(self, data: bytes) -> None:
        """Answer a frame. A peer that asks and asks and does not read is cut off."""
        self._controls += self._paused
        if self._controls > _CONTROL_LIMIT:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many answers wait to be read")
        self._out.append(data)

    def _flush_late(self) -> None:
        self._lingering = False
        self.flush()

    def _pump_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for stream in waiting:
            stream.pump()

    # Frames that come.

    def _handle(self, data: bytes) -> int:
        """Handle what is complete; how much that was."""
        at, end = 0, len(data)
        if not self._greeted:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "the peer speaks no HTTP/2")
            if end < len(frames.PREFACE):
                return 0
            self._greeted = True
            at = len(frames.PREFACE)
        while end - at >= 9:
            upper, lower, kind, flags, stream = frames.HEAD.unpack_from(data, at)
            length = upper << 8 | lower
            if length > frames.FRAME_SIZE:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of {length} bytes is too long")
            after = at + 9 + length
            if after > end:
                break
            if self._block is not None and kind != frames.CONTINUATION:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block is interrupted")
            handler = self._handlers.get(kind)
            if handler is not None:  # what is unknown is for extensions
                handler(stream & frames.MAX_WINDOW, flags, data[at + 9 : after])
            at = after
        return at

    def _data(self, number: int, flags: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= _CONNECTION_WINDOW // 2:
            self.write(frames.window_update(0, self._received))
            self._received = 0
        stream = self.streams.get(number)
        if stream is None:
            if number == 0 or number > self._last_stream or not number & 1:
                raise ConnectionFault(frames.PROTOCOL_ERROR, f"data of stream {number}, which is not open")
            return  # it has just been answered
        stream.took(len(payload))
        stream.receive(frames.unpadded(payload, flags), bool(flags & frames.END_STREAM))

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        payload = frames.unpadded(payload, flags)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a priority is cut off")
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._whole_block(number, flags, payload)
        else:
            self._block = (number, flags, payload)

    def _continuation(self, number: int, flags: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a continuation continues nothing")
        _, first_flags, block = self._block
        block += payload
        if len(block) > MAX_LIST:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "a header block is too long")
        self._block = None if flags & frames.END_HEADERS else (number, first_flags, block)
        if self._block is None:
            self._whole_block(number, first_flags, block)

    def _whole_block(self, number: int, flags: int, block: bytes) -> None:
        meaning = self._blocks.read(block)
        stream = self.streams.get(number)
        if stream is not None:  # trailers
            if not flags & frames.END_STREAM:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "trailers do not end their stream")
            stream.receive(b"", True)
            return
        if not number & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"stream {number} is none of a client's")
        if number <= self._last_stream:
            return  # trailers of a call that has just been answered
        if self._leaving:
            self.write(frames.rst_stream(number, frames.REFUSED_STREAM))
            return
        self._last_stream = number
        stream = self.streams[number] = self._open_stream(self, number, meaning)
        stream.begin(bool(flags & frames.END_STREAM))

    def _rst_stream(self, number: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        if number == 0 or number > self._last_stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"reset of stream {number}, which is not open")
        stream = self.streams.get(number)
        if stream is not None:
            self.forget(stream)
            stream.lost()

    def _settings(self, number: int, flags: int, payload: bytes) -> None:
        if number or len(payload) % 6:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "malformed SETTINGS")
        if flags & frames.ACK:
            return
        for name, value in struct.iter_unpack(">HI", payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.MAX_WINDOW:
                    raise ConnectionFault(frames.FLOW_CONTROL_ERROR, f"a window of {value} bytes is too large")
                for stream in self.streams.values():
                    stream.window += value - self.stream_window
                self.stream_window = value
            elif name == frames.MAX_FRAME_SIZE:
                if not frames.FRAME_SIZE <= value < 1 << 24:
                    raise ConnectionFault(frames.PROTOCOL_ERROR, f"frames of {value} bytes are not possible")
                self.frame_size = value
        self._control(frames.head(0, frames.SETTINGS, frames.ACK, 0))
        for stream in list(self.streams.values()):
            stream.pump()

    def _push_promise(self, number: int, flags: int, payload: bytes) -> None:
        raise ConnectionFault(frames.PROTOCOL_ERROR, "a client cannot push")

    def _ping(self, number: int, flags: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "PING has eight bytes")
        if not flags & frames.ACK:
            self._control(frames.head(8, frames.PING, frames.ACK, 0) + payload)

    def _window_update(self, number: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        increment = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        if number == 0:
            self.window += increment
            if not increment or self.window > frames.MAX_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "the connection's window is not possible")
            self._pump_waiting()
            return
        stream = self.streams.get(number)
        if stream is None:
            return  # it is over
        stream.window += increment
        if not increment or stream.window > frames.MAX_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, f"the window of stream {number} is not possible")
        stream.pump()

    def _ignore(self, number: int, flags: int, payload: bytes) -> None:
        """Priorities are not followed; a peer that says goodbye closes the connection itself."""
