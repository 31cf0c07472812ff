# SPDX-License-Identifier: Apache-2.0
"""A terminal or pipes on one side, a hijacked connection on the other: attach, run and exec.

Single-threaded: a poll loop over standard input, the connection and a pipe that signals write to.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import termios
import tty
from collections.abc import Callable, Iterator

_READ_SIZE = 64 * 1024
_DEFAULT_DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q

SignalHandler = Callable[[int], None]


class Detached(Exception):
    """The user typed the detach keys."""


def copy(
    sock: socket.socket,
    early: bytes,
    *,
    stdin: bool,
    multiplexed: bool,
    stdout: bool = True,
    stderr: bool = True,
    detach_keys: bytes = b"",
    on_signal: SignalHandler | None = None,
    signals: "SignalPipe | None" = None,
) -> None:
    """Copy between standard streams and `sock` until the peer has sent everything.

    `early` is what came with the reply's head. End of standard input is a half-close, after which output still
    flows. Raises Detached.
    """
    output = _Demultiplexer(stdout, stderr) if multiplexed else _Raw(stdout)
    output.feed(early)
    keys = _DetachKeys(detach_keys) if detach_keys else None
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    if stdin:
        poller.register(0, select.POLLIN)
    if signals is not None:
        poller.register(signals.fd, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if signals is not None and fd == signals.fd:
                for number in signals.read():
                    if on_signal is not None:
                        on_signal(number)
            elif fd == sock.fileno():
                data = _receive(sock)
                if not data:
                    return
                output.feed(data)
            elif not _send_input(sock, keys):
                poller.unregister(0)


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_READ_SIZE)
    except ConnectionResetError:
        return b""


def _send_input(sock: socket.socket, keys: "_DetachKeys | None") -> bool:
    """Pass on one piece of standard input; False when it has ended or the peer takes no more."""
    try:
        data = os.read(0, _READ_SIZE)
    except OSError:
        data = b""
    try:
        if data:
            sock.sendall(keys.filter(data) if keys else data)
            return True
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        # The container took no more input (it has exited, or closed it); its output is still to come.
        return False
    return False


class _Raw:
    """Output without framing: all of it is standard output."""

    def __init__(self, stdout: bool) -> None:
        self._stdout = stdout

    def feed(self, data: bytes) -> None:
        if self._stdout:
            write_all(1, data)


class _Demultiplexer(_Raw):
    """Output in stdcopy frames: 8 bytes of head (stream, 0, 0, 0, length big-endian), then the payload."""

    def __init__(self, stdout: bool, stderr: bool) -> None:
        super().__init__(stdout)
        self._targets = {1: 1 if stdout else -1, 2: 2 if stderr else -1}
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 8:
            kind, length = struct.unpack_from(">B3xI", self._buffer)
            if len(self._buffer) < 8 + length:
                return
            payload, self._buffer = self._buffer[8 : 8 + length], self._buffer[8 + length :]
            if kind == 3:
                raise OSError(f"error from daemon in stream: {payload.decode(errors='replace')}")
            target = self._targets.get(kind, -1)
            if target >= 0:
                write_all(target, payload)


def demultiplex(pieces: Iterator[bytes], *, multiplexed: bool) -> None:
    """Print a stream of output to standard output and standard error."""
    output = _Demultiplexer(True, True) if multiplexed else _Raw(True)
    for piece in pieces:
        output.feed(piece)


def write_all(fd: int, data: bytes) -> None:
    """Write everything, whatever the file is."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class _DetachKeys:
    """Holds back the beginning of the detach sequence until it is clear that it isn't one."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def filter(self, data: bytes) -> bytes:
        out = b""
        for value in data:
            byte = bytes((value,))
            if self._keys.startswith(self._held + byte):
                self._held += byte
                if self._held == self._keys:
                    raise Detached
            else:
                out += self._held + byte
                self._held = b""
        return out


def parse_detach_keys(text: str) -> bytes:
    """The bytes of `ctrl-p,ctrl-q`, `ctrl-@`, `a`. Raises ValueError."""
    if not text:
        return _DEFAULT_DETACH_KEYS
    keys = b""
    for key in text.split(","):
        if key.startswith("ctrl-") and len(key) == 6:
            code = ord(key[5].upper()) & 0x1F if key[5] != "@" else 0
            keys += bytes((code,))
        elif len(key) == 1:
            keys += key.encode()
        else:
            raise ValueError(f"Unknown character: '{key}'")
    return keys


class SignalPipe:
    """Turns signals into bytes on a descriptor that a poll loop can wait for."""

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._numbers = numbers
        self._before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def read(self) -> bytes:
        """The numbers of the signals that have arrived."""
        try:
            return os.read(self.fd, 64)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write)


@contextlib.contextmanager
def raw_terminal(enabled: bool) -> Iterator[None]:
    """Standard input's terminal in raw mode, put back at the end."""
    if not enabled:
        yield
        return
    before = termios.tcgetattr(0)
    # Not the default TCSAFLUSH: what was typed ahead is meant for the container.
    tty.setraw(0, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int]:
    """(rows, columns) of the terminal, (0, 0) without one."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return 0, 0
    return size.lines, size.columns


def input_is_terminal() -> bool:
    """Whether standard input is a terminal."""
    return sys.stdin is not None and os.isatty(0)
