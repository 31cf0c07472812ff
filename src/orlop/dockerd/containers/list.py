# SPDX-License-Identifier: Apache-2.0
"""List containers: `docker ps` with all of its filters."""

import re
from typing import Any

import msgspec

from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.inspect import Inspect
from orlop.dockerd.containers.model import ContainerRecord, State
from orlop.dockerd.containers.ports import Images
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.filters import Filters
from orlop.engine.durations import human_duration
from orlop.errdefs import InvalidArgumentError, NotFoundError

ACCEPTED_FILTERS = (
    "ancestor",
    "annotation",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
)
_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTHS = ("none", "starting", "healthy", "unhealthy")
View = dict[str, Any]


class List:
    """The use case."""

    def __init__(self, registry: Registry, images: Images, inspect: Inspect) -> None:
        self._registry = registry
        self._images = images
        self._inspect = inspect

    async def __call__(
        self, filters: Filters, *, all: bool = False, limit: int = 0, size: bool = False
    ) -> list[View]:
        """GET /containers/json as of the latest API version, newest first. Raises InvalidArgumentError."""
        found = await self.select(filters, all=all, limit=limit)
        shown = [summary(container) for container in found]
        if size:
            sizes = await self._inspect.sizes(found)
            for view, (written, total) in zip(shown, sizes, strict=True):
                view["SizeRw"], view["SizeRootFs"] = written, total
        return shown

    async def select(self, filters: Filters, *, all: bool = False, limit: int = 0) -> list[Container]:
        """The containers that pass, newest first; stopped ones only if `all`, limit or a filter asks for them."""
        wanted = await self._compile(filters)
        everything = all or limit > 0 or any(name in filters for name in ("status", "exited", "before", "since"))
        found = []
        for container in sorted(self._registry, key=lambda item: item.record.created, reverse=True):
            if (everything or container.record.state.running) and wanted.passes(container):
                found.append(container)
                if limit and len(found) >= limit:
                    break
        return found

    async def _compile(self, filters: Filters) -> "_Wanted":
        filters.validate(ACCEPTED_FILTERS)
        return _Wanted(
            filters,
            images=await self._ancestors(filters),
            exit_codes=_numbers(filters, "exited"),
            before=self._moment(filters, "before"),
            since=self._moment(filters, "since"),
        )

    async def _ancestors(self, filters: Filters) -> set[str] | None:
        """IDs of the images meant by `ancestor`, and of those built on them; None: no such filter."""
        if "ancestor" not in filters:
            return None
        found = set()
        for name in filters.get("ancestor"):
            try:
                found.add((await self._images.resolve(name)).id)
            except (NotFoundError, InvalidArgumentError):
                found.add(name)  # an image that is gone: its containers still carry its ID
        return found

    def _moment(self, filters: Filters, name: str) -> int | None:
        moments = []
        for reference in filters.get(name):
            moments.append(self._registry.get(reference).record.created)
        return moments[-1] if moments else None


class _Wanted:
    """Filters, checked and looked up."""

    def __init__(
        self,
        filters: Filters,
        *,
        images: set[str] | None,
        exit_codes: set[int],
        before: int | None,
        since: int | None,
    ) -> None:
        self._filters = filters
        self._images = images
        self._exit_codes = exit_codes
        self._before = before
        self._since = since
        self._publish = _ports(filters, "publish")
        self._expose = _ports(filters, "expose")
        for status in filters.get("status"):
            if status not in _STATES:
                raise InvalidArgumentError(
                    f"invalid filter 'status={status}': invalid value for state ({status}): "
                    f"must be one of {', '.join(_STATES)}"
                )
        for health in filters.get("health"):
            if health not in _HEALTHS:
                raise InvalidArgumentError(
                    f"invalid filter 'health={health}': invalid value for health ({health}): "
                    f"must be one of {', '.join(_HEALTHS)}"
                )
        if filters.flag("is-task", False):
            self._images = set()  # there is no swarm: no container is a task

    def passes(self, container: Container) -> bool:
        record, filters = container.record, self._filters
        return (
            self._passes_state(record)
            and filters.prefixes("id", record.id)
            and (filters.matches("name", f"/{record.name}") or filters.matches("name", record.name))
            and filters.labels("label", record.config.labels)
            and filters.labels("annotation", record.host_config.annotations)
            and filters.exact("isolation", record.host_config.isolation)
            and (self._before is None or record.created < self._before)
            and (self._since is None or record.created > self._since)
            and (self._images is None or record.image_id in self._images or record.config.image in self._images)
            and self._passes_volume(record)
            and self._passes_network(record)
            and self._passes_ports(record)
        )

    def _passes_state(self, record: ContainerRecord) -> bool:
        state = record.state
        health = state.health.status if state.health else "none"
        if self._exit_codes and (
            state.running or state.status == "created" or state.exit_code not in self._exit_codes
        ):
            return False
        return self._filters.exact("status", state.status) and self._filters.exact("health", health)

    def _passes_volume(self, record: ContainerRecord) -> bool:
        wanted = self._filters.get("volume")
        if not wanted:
            return True
        names = {name for point in record.mounts for name in (point.name, point.source, point.destination)}
        return any(name in names for name in wanted if name)

    def _passes_network(self, record: ContainerRecord) -> bool:
        wanted = self._filters.get("network")
        if not wanted:
            return True
        for name, settings in record.endpoints.items():
            if any(want == name or (settings.network_id or "-").startswith(want) for want in wanted):
                return True
        return record.host_config.network_mode in wanted

    def _passes_ports(self, record: ContainerRecord) -> bool:
        if self._publish is not None:
            published = {port for port, bindings in record.network.ports.items() if bindings}
            if not self._publish & published:
                return False
        return self._expose is None or bool(self._expose & set(record.config.exposed_ports))


def _numbers(filters: Filters, name: str) -> set[int]:
    found = set()
    for text in filters.get(name):
        try:
            found.add(int(text))
        except ValueError:
            raise InvalidArgumentError(f"invalid filter '{name}={text}'") from None
    return found


def _ports(filters: Filters, name: str) -> set[str] | None:
    """`80`, `80/udp`, `8000-8010/tcp` as `80/tcp` …; None: no such filter."""
    if name not in filters:
        return None
    found = set()
    for text in filters.get(name):
        parsed = re.fullmatch(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", text)
        if not parsed or int(parsed[2] or parsed[1]) > 65535:
            raise InvalidArgumentError(f"invalid filter '{name}={text}'")
        first, last = int(parsed[1]), int(parsed[2] or parsed[1])
        found |= {f"{port}/{parsed[3] or 'tcp'}" for port in range(first, last + 1)}
    return found


def summary(container: Container) -> View:
    """One entry of the list."""
    record = container.record
    command = " ".join([record.path, *(_quoted(argument) for argument in record.args)])
    shown: View = {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.config.image,
        "ImageID": record.image_id,
        "ImageManifestDescriptor": record.image_manifest,
        "Command": command,
        "Created": record.created // timestamps.SECOND,
        "Ports": port_summaries(record),
        "Labels": record.config.labels,
        "State": record.state.status,
        "Status": status_text(record.state, timestamps.now()),
        "HostConfig": {"NetworkMode": record.host_config.network_mode},
        "NetworkSettings": {
            "Networks": {name: msgspec.to_builtins(settings) for name, settings in record.endpoints.items()}
        },
        "Mounts": [point.inspect() for point in record.mounts],
        "Health": {
            "Status": record.state.health.status if record.state.health else "none",
            "FailingStreak": record.state.health.failing_streak if record.state.health else 0,
        },
    }
    if record.host_config.annotations:
        shown["HostConfig"]["Annotations"] = record.host_config.annotations
    return shown


def _quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


def port_summaries(record: ContainerRecord) -> list[View]:
    """`Ports` of a list entry: a row for each binding, and one for what is exposed only."""
    rows: list[View] = []
    for port, bindings in record.network.ports.items():
        number, _, protocol = port.partition("/")
        if not bindings:
            rows.append({"PrivatePort": int(number), "Type": protocol})
        for binding in bindings or []:
            rows.append(
                {
                    "IP": binding.get("HostIp", ""),
                    "PrivatePort": int(number),
                    "PublicPort": int(binding.get("HostPort") or 0),
                    "Type": protocol,
                }
            )
    return rows


def status_text(state: State, now: int) -> str:
    """`Up 5 minutes (healthy)`, `Exited (0) 2 hours ago` …"""
    if state.running:
        up = _words(now - state.started_at)
        if state.paused:
            return f"Up {up} (Paused)"
        if state.restarting:
            return f"Restarting ({state.exit_code}) {_words(now - state.finished_at)} ago"
        if state.health is not None and state.health.status != "none":
            health = "health: starting" if state.health.status == "starting" else state.health.status
            return f"Up {up} ({health})"
        return f"Up {up}"
    if state.removing:
        return "Removal In Progress"
    if state.dead:
        return "Dead"
    if not state.started_at or not state.finished_at:
        return "Created"
    return f"Exited ({state.exit_code}) {_words(now - state.finished_at)} ago"


def _words(nanoseconds: int) -> str:
    return human_duration(nanoseconds / timestamps.SECOND)
