# SPDX-License-Identifier: Apache-2.0
"""What the stdin, stdout and stderr strings of a task mean."""

import os
from typing import NamedTuple

from orlop.errdefs import InvalidArgumentError


class Fifo(NamedTuple):
    """A named pipe of a containerd client."""

    path: str


class File(NamedTuple):
    """A file that raw output is appended to."""

    path: str


class Binary(NamedTuple):
    """A logging program; with `ready_byte` it must write a byte before the container starts (binary-v2)."""

    path: str
    args: tuple[str, ...]
    ready_byte: bool


class Attach(NamedTuple):
    """The attach socket; for stdin `once` closes it when the first client's input ends."""

    path: str
    once: bool = False


class JsonFile(NamedTuple):
    """Docker's json-file log. `max_size` is in bytes, 0 for no limit; `attrs` is the JSON of each line's attrs."""

    path: str
    max_size: int = 0
    max_file: int = 1
    compress: bool = False
    attrs: str = ""
    attach: str = ""


class Local(NamedTuple):
    """Docker's `local` log, as JsonFile; `attrs` is the hexadecimal form of each entry's encoded attributes."""

    path: str
    max_size: int = 0
    max_file: int = 1
    compress: bool = False
    attrs: str = ""
    attach: str = ""


Output = Fifo | File | Binary | Attach | JsonFile | Local
Input = Fifo | Attach


def parse_output(text: str, field: str) -> Output | None:
    """The meaning of a stdout or stderr string; None for the empty one. Raises InvalidArgumentError."""
    if not text:
        return None
    scheme, path, query = _split(text, field)
    if scheme in ("", "fifo"):
        return Fifo(path)
    if scheme == "file":
        return File(path)
    if scheme in ("binary", "binary-v2"):
        args = [word for pair in query for word in pair if word]
        return Binary(path, tuple(args), scheme == "binary-v2")
    options = dict(query)
    if scheme == "attach":
        _known(options, (), text, field)
        return Attach(path)
    if scheme in ("json-file", "local"):
        _known(options, ("max-size", "max-file", "compress", "attrs", "attach"), text, field)
        kind = JsonFile if scheme == "json-file" else Local
        return kind(
            path,
            _number(options.get("max-size", "0"), 0, f"{field}: max-size"),
            _number(options.get("max-file", "1"), 1, f"{field}: max-file"),
            _boolean(options.get("compress", ""), f"{field}: compress"),
            options.get("attrs", ""),
            options.get("attach", ""),
        )
    raise InvalidArgumentError(f"{field}: unknown scheme {scheme!r} in {text!r}")


def parse_input(text: str) -> Input | None:
    """The meaning of a stdin string; None for the empty one. Raises InvalidArgumentError."""
    if not text:
        return None
    scheme, path, query = _split(text, "stdin")
    if scheme in ("", "fifo"):
        return Fifo(path)
    if scheme == "attach":
        options = dict(query)
        _known(options, ("once",), text, "stdin")
        return Attach(path, _boolean(options.get("once", ""), "stdin: once"))
    raise InvalidArgumentError(f"stdin: unknown scheme {scheme!r} in {text!r}")


def _split(text: str, field: str) -> tuple[str, str, list[tuple[str, str]]]:
    # urllib.parse would cost every shim the memory of its modules.
    if text.startswith("/"):
        return "", text, []
    scheme, separator, rest = text.partition("://")
    path, _, query = rest.partition("?")
    path = _unquote(path)
    if not separator or not path.startswith("/") or "\0" in path:
        raise InvalidArgumentError(
            f"{field}: {text!r} must hold an absolute path, as in {scheme or 'fifo'}:///path"
        )
    pairs = [part.partition("=") for part in query.split("&") if part]
    return (
        scheme,
        path,
        [(_unquote(name.replace("+", " ")), _unquote(value.replace("+", " "))) for name, _, value in pairs],
    )


def _unquote(text: str) -> str:
    """Undo percent-encoding; a % without two hexadecimal digits is itself."""
    if "%" not in text:
        return text
    first, *others = os.fsencode(text).split(b"%")
    out = bytearray(first)
    for piece in others:
        try:
            out += bytes.fromhex(piece[:2].decode("ascii")) if len(piece) > 1 else b"%" + piece[:2]
        except ValueError:
            out += b"%" + piece[:2]
        out += piece[2:]
    return os.fsdecode(bytes(out))


def _known(options: dict[str, str], known: tuple[str, ...], text: str, field: str) -> None:
    for name in options:
        if name not in known:
            raise InvalidArgumentError(f"{field}: unknown option {name!r} in {text!r}")


def _number(text: str, least: int, field: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise InvalidArgumentError(f"{field} must be a number of at least {least}, not {text!r}")
    return int(text)


def _boolean(text: str, field: str) -> bool:
    if text in ("", "0", "false"):
        return False
    if text in ("1", "true"):
        return True
    raise InvalidArgumentError(f"{field} must be 0 or 1, not {text!r}")
