# SPDX-License-Identifier: Apache-2.0
"""Pulling an image: the daemon's progress messages as lines, or as bars on a terminal."""

import json
from typing import Any, TextIO

from orlop.cli.errors import ExitError
from orlop.cli.units import human_size4
from orlop.engine.client import Client
from orlop.engine.credentials import registry_auth

_BAR_WIDTH = 50


def split_reference(reference: str) -> tuple[str, str]:
    """(name, tag or digest) of a reference; the tag is `latest` where none is given."""
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    head, colon, tag = reference.rpartition(":")
    if colon and "/" not in tag:
        return head, tag
    return reference, "latest"


def split_tag(reference: str) -> tuple[str, str]:
    """(name, tag) of a reference, the tag empty where none is given. Raises ExitError for a digest."""
    if "@" in reference:
        raise ExitError("cannot refer to image with a digest reference")
    head, colon, tag = reference.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (reference, "")


def pull(
    client: Client, reference: str, platform: str, *, quiet: bool, to: TextIO, all_tags: bool = False
) -> None:
    """Pull an image, or all of its repository, and show how it goes on `to`.

    Raises ExitError with the daemon's words.
    """
    name, tag = split_reference(reference)
    query = {"fromImage": name, "tag": None if all_tags else tag, "platform": platform or None}
    response = client.stream("POST", "/images/create", query, headers=registry_auth(name))
    show_progress(response.lines(), to, quiet=quiet)


def show_progress(lines: Any, to: TextIO, *, quiet: bool = False) -> None:
    """Print JSON progress messages. Raises ExitError for an error message among them."""
    bars = _Bars(to) if to.isatty() else None
    for line in lines:
        message = json.loads(line)
        if error := message.get("errorDetail", {}).get("message") or message.get("error"):
            raise ExitError(f"Error response from daemon: {error}", 1)
        if quiet:
            continue
        if "stream" in message:
            to.write(message["stream"])
        elif bars is not None:
            bars.show(message)
        elif not message.get("progressDetail"):
            prefix = f"{message['id']}: " if message.get("id") else ""
            to.write(f"{prefix}{message.get('status', '')}\n")
        to.flush()


class _Bars:
    """One line a layer, rewritten in place."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._rows: dict[str, int] = {}

    def show(self, message: dict[str, Any]) -> None:
        key = message.get("id", "")
        text = (f"{key}: " if key else "") + message.get("status", "") + _bar(message.get("progressDetail") or {})
        # A message without a progressDetail key (as "Pulling from library/x") stands for itself.
        if not key or "progressDetail" not in message:
            self._rows.clear() if not key else None
            self._to.write(text + "\n")
            return
        if key not in self._rows:
            self._rows[key] = len(self._rows)
            self._to.write(text + "\n")
            return
        up = len(self._rows) - self._rows[key]
        self._to.write(f"\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r")


def _bar(detail: dict[str, Any]) -> str:
    current, total = detail.get("current") or 0, detail.get("total") or 0
    if not total:
        return f" {human_size4(current)}" if current else ""
    done = min(_BAR_WIDTH, int(_BAR_WIDTH * current / total))
    bar = "=" * done + (">" if done < _BAR_WIDTH else "") + " " * (_BAR_WIDTH - done - 1)
    return f" [{bar}]  {human_size4(current)}/{human_size4(total)}"
