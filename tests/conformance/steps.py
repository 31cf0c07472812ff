# SPDX-License-Identifier: Apache-2.0
"""Requests as data, and how a list of them is put to a daemon."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from conformance import exchange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Version = tuple[int, int]
JSON_TYPE = {"Content-Type": "application/json"}
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


class Step(NamedTuple):
    """One request.

    `path` has no version, and may name what earlier steps kept, as `{exec}`. `body` is JSON unless it is bytes
    (sent as they are) or a `Path` (a file's content). `keep` names parts of the answer for later steps by
    their dotted path. `stdin`, if not None, asks for a hijacked stream and is what is sent along it. `since` and
    `until` bound the API versions (inclusive) with which the step makes sense. `tar` compares the body as an
    archive. `quiet`: it only prepares others, and is not compared. `apart`: it is made beside the others, since
    the original looks for a plugin again and again, for a quarter of a minute. `endless`: the stream does not end.
    """

    name: str
    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = {}
    keep: Mapping[str, str] = {}
    stdin: bytes | None = None
    since: Version = (1, 24)
    until: Version = (1, 99)
    quiet: bool = False
    apart: bool = False
    endless: bool = False


def run(socket_path: str, steps: Iterable[Step], version: Version) -> dict[str, exchange.Answer]:
    """Put the steps to a daemon in order: the answers by the steps' names."""
    kept: dict[str, str] = {}
    answers: dict[str, exchange.Answer] = {}
    waiting: dict[str, Future[exchange.Answer]] = {}
    with ThreadPoolExecutor() as threads:
        for step in steps:
            if not step.since <= version <= step.until:
                continue
            if step.apart:
                waiting[step.name] = threads.submit(_ask, socket_path, step, version, dict(kept))
                continue
            answer = _ask(socket_path, step, version, kept)
            for name, where in step.keep.items():
                kept[name] = _dig(answer, where)
            answers[step.name] = answer
        return answers | {name: answer.result() for name, answer in waiting.items()}


def _ask(socket_path: str, step: Step, version: Version, kept: Mapping[str, str]) -> exchange.Answer:
    path = step.path
    for name, value in kept.items():
        path = path.replace(f"{{{name}}}", value)
    target = path if path.startswith("//") else f"/v{version[0]}.{version[1]}{path}"
    target = target.removeprefix("/") if target.startswith("//") else target
    headers = dict(step.headers)
    body = step.body
    if hasattr(body, "read_bytes"):
        body = body.read_bytes()
        headers.setdefault("Content-Type", "application/x-tar")
    elif body is not None and not isinstance(body, bytes):
        text = json.dumps(body)
        for name, value in kept.items():
            text = text.replace(f"{{{name}}}", value)
        body = text.encode()
        headers.setdefault("Content-Type", "application/json")
    if step.stdin is not None:
        return exchange.hijack(socket_path, target, body or b"", headers, step.stdin, endless=step.endless)
    return exchange.ask(socket_path, step.method, target, body, headers)


def _dig(answer: exchange.Answer, where: str) -> str:
    try:
        value = json.loads(answer.body)
        for key in where.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (ValueError, LookupError, TypeError):
        return "missing"  # the step itself will be seen to differ, or both daemons lack it
    return str(value)
