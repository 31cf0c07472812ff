# SPDX-License-Identifier: Apache-2.0
"""Being attached to a container or an exec: streams, terminal, resizing, signals, detach keys."""

import contextlib
import signal
import socket
from collections.abc import Callable
from typing import Any

from orlop.cli import streams
from orlop.cli.errors import ExitError
from orlop.engine.client import Client, EngineError

# Signals that are about our own process, not the user's wish for the container.
_NOT_PROXIED = {signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH, signal.SIGKILL, signal.SIGSTOP}
_PROXIED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

Resize = Callable[[int, int], None]


class Attachment:
    """A hijacked connection to the standard streams of one process."""

    def __init__(
        self,
        sock: socket.socket,
        early: bytes,
        *,
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        detach_keys: bytes,
        resize: Resize,
        kill: Callable[[str], None] | None,
    ) -> None:
        self._socket = sock
        self._early = early
        self._tty = tty
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._detach_keys = detach_keys
        self._resize = resize
        self._kill = kill

    @classmethod
    def open(cls, client: Client, container: str, config: dict[str, Any], detach_keys: str) -> "Attachment":
        """Attach to a container with the streams that its configuration says (AttachStdin …)."""
        keys = parse_keys(detach_keys)
        query = {
            "stream": True,
            "stdin": bool(config["AttachStdin"]),
            "stdout": bool(config["AttachStdout"]),
            "stderr": bool(config["AttachStderr"]),
            "detachKeys": detach_keys or None,
        }
        sock, early, _ = client.hijack(f"/containers/{container}/attach", query)
        return cls(
            sock,
            early,
            tty=bool(config["Tty"]),
            stdin=bool(config["AttachStdin"]),
            stdout=bool(config["AttachStdout"]),
            stderr=bool(config["AttachStderr"]),
            detach_keys=keys,
            resize=lambda rows, columns: _resize(client, f"/containers/{container}/resize", rows, columns),
            kill=lambda name: _kill(client, container, name),
        )

    @classmethod
    def of_exec(
        cls, client: Client, exec_id: str, config: dict[str, Any], sock: socket.socket, early: bytes, keys: bytes
    ) -> "Attachment":
        """For an exec whose start has been answered with a hijacked connection."""
        return cls(
            sock,
            early,
            tty=bool(config["Tty"]),
            stdin=bool(config["AttachStdin"]),
            stdout=True,
            stderr=True,
            detach_keys=keys,
            resize=lambda rows, columns: _resize(client, f"/exec/{exec_id}/resize", rows, columns),
            kill=None,
        )

    def follow(self, *, proxy_signals: bool) -> bool:
        """Copy until the process has closed its streams; True if the user detached before."""
        numbers = [signal.SIGWINCH] if self._tty else []
        if proxy_signals and self._kill is not None:
            numbers += _PROXIED
        signals = streams.SignalPipe(tuple(numbers)) if numbers else None
        terminal = self._tty and self._stdin and streams.input_is_terminal()
        if self._tty:
            self._resize(*streams.terminal_size())
        try:
            with streams.raw_terminal(terminal):
                streams.copy(
                    self._socket,
                    self._early,
                    stdin=self._stdin,
                    multiplexed=not self._tty,
                    stdout=self._stdout,
                    stderr=self._stderr,
                    detach_keys=self._detach_keys if terminal else b"",
                    on_signal=self._on_signal,
                    signals=signals,
                )
        except streams.Detached:
            return True
        finally:
            self._socket.close()
            if signals is not None:
                signals.close()
        return False

    def close(self) -> None:
        self._socket.close()

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._resize(*streams.terminal_size())
        elif self._kill is not None and number not in _NOT_PROXIED:
            self._kill(str(int(number)))


def parse_keys(text: str) -> bytes:
    """Detach keys, ctrl-p,ctrl-q by default. Raises ExitError."""
    try:
        return streams.parse_detach_keys(text)
    except ValueError as error:
        raise ExitError(f"invalid detach keys ({text}): {error}", 125) from None


def start_failure_status(message: str) -> int:
    """The exit status of `run` for a container that could not be started: 127 not found, 126 not runnable, 125."""
    if any(text in message for text in ("executable file not found", "no such file or directory")):
        return 127
    if any(text in message for text in ("permission denied", "is a directory")):
        return 126
    return 125


def _resize(client: Client, path: str, rows: int, columns: int) -> None:
    if rows == columns == 0:
        return
    # Resizing is a courtesy: the process may not have started yet, or may have ended.
    with contextlib.suppress(EngineError):
        client.request("POST", path, {"h": rows, "w": columns}).read()


def _kill(client: Client, container: str, name: str) -> None:
    # The container may have exited between the signal and now.
    with contextlib.suppress(EngineError):
        client.request("POST", f"/containers/{container}/kill", {"signal": name}).read()
