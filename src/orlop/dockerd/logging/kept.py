# SPDX-License-Identifier: Apache-2.0
"""Logs of removed containers, for those that ask for it with the log option `keep`."""

import asyncio
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from orlop.dockerd import timestamps
from orlop.dockerd.containers.model import ContainerRecord
from orlop.dockerd.logging.options import keep_for
from orlop.dockerd.logging.place import place

log = logging.getLogger("orlop.dockerd.logging")

_ABOUT = "about.json"
_NEW = ".new"
_LOOK_SECONDS = 3600.0
_LEAST_DIGITS = 4
"""Of an id, to be found by its beginning."""


class KeptLog(msgspec.Struct, kw_only=True):
    """The log of a container that is no more: its record, where `until` (nanoseconds since 1970) it is kept."""

    record: ContainerRecord
    removed: int
    until: int


class Found(NamedTuple):
    """A kept log and the directory that stands for the container's."""

    kept: KeptLog
    directory: Path


class KeptLogs:
    """One directory a log below `directory`; made whole or not at all. Calls block for a few renames."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, record: ContainerRecord, directory: Path) -> None:
        """Move the log out of the directory of a container that is being removed, if it wants that.

        Doing it again after a crash is fine.
        """
        seconds = keep_for(record.host_config.log_config)
        there = place(record, directory)
        final = self._directory / record.id
        if not seconds or there is None or final.exists():
            return
        fresh = self._directory / f"{record.id}{_NEW}"
        fresh.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = Path(there.path)
        home = fresh / path.parent.relative_to(directory)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in path.parent.glob(f"{path.name}*"):
            file.rename(home / file.name)
        now = timestamps.now()
        state = msgspec.structs.replace(record.state, removing=False)
        log_path = str(final / path.name) if record.log_path else ""
        moved = msgspec.structs.replace(record, log_path=log_path, state=state)
        about = KeptLog(record=moved, removed=now, until=now + seconds)
        (fresh / _ABOUT).write_bytes(msgspec.json.encode(about))
        fresh.rename(final)

    def find(self, reference: str) -> Found | None:
        """By name (the one removed last), id or beginning of an id."""
        found = [each for each in self._all() if _means(reference, each.kept.record)]
        return max(found, key=lambda each: each.kept.removed, default=None)

    def expire(self, now: int) -> None:
        """Delete what has been kept long enough."""
        for each in self._all():
            if each.kept.until <= now:
                shutil.rmtree(each.directory, ignore_errors=True)

    async def run(self) -> None:
        """Expire in time, until cancelled."""
        while True:
            self.expire(timestamps.now())
            await asyncio.sleep(_LOOK_SECONDS)

    def _all(self) -> Iterator[Found]:
        if not self._directory.exists():
            return
        for directory in self._directory.iterdir():
            if directory.suffix == _NEW:
                continue
            try:
                yield Found(msgspec.json.decode((directory / _ABOUT).read_bytes(), type=KeptLog), directory)
            except (OSError, msgspec.DecodeError) as error:
                log.warning("kept log %s: %s", directory.name, error)


def _means(reference: str, record: ContainerRecord) -> bool:
    return reference.removeprefix("/") == record.name or (
        len(reference) >= _LEAST_DIGITS and record.id.startswith(reference)
    )
