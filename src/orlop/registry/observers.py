# SPDX-License-Identifier: Apache-2.0
"""What passes between us and a registry, in words: for people who look for the reason of a failure."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yarl import URL

_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
_STEPS = (
    ("on_dns_resolvehost_start", "DNS lookup begins"),
    ("on_dns_resolvehost_end", "DNS lookup done"),
    ("on_connection_create_start", "connecting"),
    ("on_connection_create_end", "connected"),
    ("on_connection_reuseconn", "got a connection that was open"),
    ("on_request_headers_sent", "wrote the headers"),
    ("on_request_redirect", "redirected"),
)


Say = Callable[[str], None]


def observers(dump: Say | None, trace: Say | None) -> list[aiohttp.TraceConfig]:
    """Hooks of a session.

    `dump` gets each request and each answer as HTTP writes them, bodies and credentials left out; `trace` one line
    for each step of a connection.
    """
    return [*([_dumping(dump)] if dump else []), *([_tracing(trace)] if trace else [])]


def _dumping(dump: Say) -> aiohttp.TraceConfig:
    async def started(
        _session: aiohttp.ClientSession, _context: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        headers = {"Host": request.url.authority, **request.headers}
        dump(_message(f"{request.method} {_path(request.url)} HTTP/1.1", headers.items()))

    async def ended(
        _session: aiohttp.ClientSession, _context: SimpleNamespace, request: aiohttp.TraceRequestEndParams
    ) -> None:
        answer = request.response
        dump(_message(f"HTTP/1.1 {answer.status} {answer.reason or ''}".rstrip(), answer.headers.items()))

    async def failed(
        _session: aiohttp.ClientSession, _context: SimpleNamespace, request: aiohttp.TraceRequestExceptionParams
    ) -> None:
        dump(f"{request.method} {_path(request.url)}: {request.exception or type(request.exception).__name__}\n")

    made = aiohttp.TraceConfig()
    made.on_request_start.append(started)
    made.on_request_end.append(ended)
    made.on_request_exception.append(failed)
    return made


def _tracing(trace: Say) -> aiohttp.TraceConfig:
    made = aiohttp.TraceConfig()
    for hook, words in _STEPS:
        getattr(made, hook).append(_step(trace, words))
    return made


def _step(trace: Say, words: str) -> object:
    async def step(_session: aiohttp.ClientSession, _context: SimpleNamespace, parameters: object) -> None:
        host = getattr(parameters, "host", "")
        trace(f"{words}: {host}" if host else words)

    return step


def _message(first: str, headers: Iterable[tuple[str, str]]) -> str:
    lines = [f"{name}: {_shown(name, value)}" for name, value in headers]
    return "\n".join((first, *lines, "", ""))


def _shown(name: str, value: str) -> str:
    return f"{value.partition(' ')[0]} …" if name.lower() in _SECRET else value


def _path(url: URL) -> str:
    """The path without its query's values, which may be the signature of a storage."""
    names: Mapping[str, str] = url.query
    return url.raw_path + ("?" + "&".join(f"{name}=…" for name in names) if names else "")
