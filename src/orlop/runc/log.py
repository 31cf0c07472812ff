# SPDX-License-Identifier: Apache-2.0
"""The log of `orlop-runc`, in the two formats that shims and engines read from runc."""

import os
import sys
import time

from orlop.errdefs import InvalidArgumentError

_LEVELS = {"debug": 0, "warning": 1, "error": 2}


class Log:
    """Where messages go: standard error as text until `configure` says otherwise."""

    def __init__(self) -> None:
        self._path = ""
        self._json = False
        self._least = _LEVELS["warning"]

    def configure(self, path: str, form: str, level: str) -> None:
        """Log to file `path` (appended to) in the form `text` or `json`, from `level` ("": warning) on.

        Raises InvalidArgumentError.
        """
        if form not in ("", "text", "json"):
            raise InvalidArgumentError(f"invalid log-format: {form}")
        least = _LEVELS.get(level or "warning")
        if least is None:
            raise InvalidArgumentError(f'log-level is "{level}", expected {", ".join(_LEVELS)}')
        self._least = least
        self._path = path
        self._json = form == "json"

    @property
    def debugs(self) -> bool:
        """Whether `debug` says anything."""
        return self._least == _LEVELS["debug"]

    def debug(self, message: str) -> None:
        """What only somebody who looks for a fault wants to know."""
        self._write("debug", message)

    def warning(self, message: str) -> None:
        """Something was less than asked for."""
        self._write("warning", message)

    def error(self, message: str) -> None:
        """The command has failed; with a log file also said on standard error."""
        self._write("error", message)
        if self._path:
            _tell(message + "\n")

    def _write(self, level: str, message: str) -> None:
        if _LEVELS[level] < self._least:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            line = f'{{"level":"{level}","msg":{_quote(message)},"time":"{now}"}}\n'
        else:
            line = f'time="{now}" level={level} msg={_quote(message)}\n'
        if not self._path:
            _tell(line)
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError:
            _tell(line)
            return
        try:
            os.write(fd, line.encode("utf-8", "replace"))
        except OSError:
            _tell(line)
        finally:
            os.close(fd)


def _tell(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        return  # full, or nobody there: the exit code remains


def _quote(text: str) -> str:
    """A JSON string, which is also what Go's %q gives for what is ever logged."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " else f"\\u{ord(c):04x}" for c in escaped.replace("\n", "\\n")) + '"'
