# SPDX-License-Identifier: Apache-2.0
"""What two daemons answered to the same request: the differences, field by field."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from conformance.exchange import Answer

# Names and moments that every run makes anew.
_REPLACED = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<short>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b"), "<mac>"),
    (re.compile(r"(?<=network endpoints: )\w+(, \w+)+"), "<names>"),  # in the order of a hash table
)
_SECONDS = range(1_600_000_000, 4_000_000_000)  # since 1970: moments of about now
_NEVER = re.compile(r"0001-01-01T00:00:00Z")
# They follow from the length of a body and the moment, or name the daemon.
_IGNORED_HEADERS = frozenset({"date", "content-length", "transfer-encoding", "connection", "keep-alive"})
_OWN_HEADERS = frozenset({"server", "api-version"})


class Difference(NamedTuple):
    """`where` is `status 500>400`, `header:Name`, or a dotted path in the body: `State.Pid`, `0.Names.1`."""

    step: str
    where: str
    theirs: str
    ours: str


def compare(step: str, theirs: Answer, ours: Answer, places: dict[str, str]) -> Iterator[Difference]:
    """The differences of two answers; `places` are paths of either daemon and their common name."""
    if (theirs.status, theirs.reason) != (ours.status, ours.reason):
        yield Difference(step, f"status {theirs.status}>{ours.status}", _status(theirs), _status(ours))
        return
    yield from (Difference(step, *found) for found in _headers(theirs, ours))
    yield from (Difference(step, *found) for found in _trees("", _body(theirs, places), _body(ours, places)))


def _status(answer: Answer) -> str:
    return f"{answer.status} {answer.reason} {answer.body[:160].decode(errors='replace').strip()}"


def _headers(theirs: Answer, ours: Answer) -> Iterator[tuple[str, str, str]]:
    names = {name for name, _ in theirs.headers + ours.headers if name.lower() not in _IGNORED_HEADERS}
    for name in sorted(names):
        left, right = theirs.header(name), ours.header(name)
        exact = any(name == key for key, _ in theirs.headers) and any(name == key for key, _ in ours.headers)
        if not exact or (left != right and name.lower() not in _OWN_HEADERS):
            yield f"header:{name}", left or "(none)", right or "(none)"


def _body(answer: Answer, places: dict[str, str]) -> Any:
    kind = answer.header("Content-Type").partition(";")[0]
    if kind == "application/x-tar" and answer.body:
        return _members(answer.body)
    text = answer.body.decode(errors="replace")
    if kind == "application/json":
        try:
            values = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            return _normal(text, places)
        return _normal(values[0] if len(values) == 1 else values, places)
    return _normal(text, places)


def _members(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: f"{member.type!r} {member.mode:o} {member.size}" for member in tar}


def _normal(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {_text(key, places): _normal(inner, places) for key, inner in value.items()}
    if isinstance(value, list):
        return _sorted([_normal(inner, places) for inner in value])
    if isinstance(value, int) and not isinstance(value, bool) and value in _SECONDS:
        return "<seconds>"
    return _text(value, places) if isinstance(value, str) else value


def _sorted(values: list[Any]) -> list[Any]:
    """Lists that the original gives in the order of a hash table: mounts, networks, volumes."""
    for key in ("Destination", "Mountpoint", "Scope"):
        if values and all(isinstance(value, dict) and key in value for value in values):
            return sorted(values, key=lambda value: (value.get("Name") or "", value.get("Destination") or ""))
    return values


def _text(text: str, places: dict[str, str]) -> str:
    for path, name in places.items():
        text = text.replace(path, name)
    if _NEVER.fullmatch(text):
        return text
    for pattern, name in _REPLACED:
        text = pattern.sub(name, text)
    return text


def _trees(where: str, theirs: Any, ours: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            inner = f"{where}.{key}" if where else key
            if key not in ours:
                yield inner, _brief(theirs[key]), "(absent)"
            elif key not in theirs:
                yield inner, "(absent)", _brief(ours[key])
            else:
                yield from _trees(inner, theirs[key], ours[key])
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for number, (left, right) in enumerate(zip(theirs, ours, strict=True)):
            yield from _trees(f"{where}.{number}" if where else str(number), left, right)
    elif type(theirs) is not type(ours) or theirs != ours:
        yield where or "body", _brief(theirs), _brief(ours)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
