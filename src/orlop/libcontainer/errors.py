# SPDX-License-Identifier: Apache-2.0
"""Errors as one line of text in the form that tools match on, and across the socket from init to its parent."""

from orlop import errdefs


def explain(error: BaseException) -> str:
    """`name: no such file or directory` for an OSError (lower case, as every Go tool writes it), else its text."""
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror[:1].lower() + error.strerror[1:]
        name = error.filename
        if isinstance(name, bytes):
            name = name.decode(errors="replace")
        return f"{name}: {reason}" if name else reason
    return str(error) or type(error).__name__


def pack(error: BaseException) -> bytes:
    """An error as bytes: the name of its errdefs class, a line feed, its text."""
    kind = type(error).__name__ if isinstance(error, errdefs.OrlopError) else _kind_of(error)
    return f"{kind}\n{explain(error)}".encode("utf-8", "replace")[:65536]


def unpack(raw: bytes, prefix: str = "") -> errdefs.OrlopError:
    """The error that `pack` packed, its text after `prefix`."""
    kind, _, text = raw.decode("utf-8", "replace").partition("\n")
    found = getattr(errdefs, kind, errdefs.InternalError)
    error: errdefs.OrlopError = found(prefix + text)
    return error


def _kind_of(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "PermissionDeniedError"
    if isinstance(error, FileNotFoundError):
        return "NotFoundError"
    return "InternalError"
