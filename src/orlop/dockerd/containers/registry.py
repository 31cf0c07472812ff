# SPDX-License-Identifier: Apache-2.0
"""All containers: found by id, name or the beginning of an id, and written down when they change."""

from collections.abc import Iterator

from orlop.dockerd.containers.container import Container, Exec
from orlop.dockerd.containers.model import ContainerRecord, ExecRecord
from orlop.dockerd.events import Event, Events
from orlop.dockerd.store import Store
from orlop.errdefs import ConflictError, InvalidArgumentError, NotFoundError


class Registry:
    """The containers and their execs. What it holds and what the store holds are the same between two awaits."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events
        self._by_id: dict[str, Container] = {}
        self._names: dict[str, str] = {}  # of containers and of those that are being made
        self._execs: dict[str, tuple[Container, Exec]] = {}

    def load(self) -> None:
        """Read the store, at the daemon's start."""
        for record in self._store.containers():
            self._by_id[record.id] = Container(record)
            self._names[record.name] = record.id
        for exec_record in self._store.execs():
            container = self._by_id.get(exec_record.container_id)
            if container is not None:
                self._adopt_exec(container, Exec(exec_record))

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, container_id: object) -> bool:
        return container_id in self._by_id

    def find(self, container_id: str) -> Container | None:
        """By full id."""
        return self._by_id.get(container_id)

    def get(self, reference: str) -> Container:
        """By id, name or unambiguous beginning of an id. Raises NotFoundError, InvalidArgumentError."""
        if not reference:
            raise InvalidArgumentError('invalid name or ID supplied: ""')
        found = self._by_id.get(reference)
        if found is None:
            id_ = self._names.get(reference.removeprefix("/"))
            found = self._by_id.get(id_) if id_ else None
        if found is not None:
            return found
        matching = [container for id_, container in self._by_id.items() if id_.startswith(reference)]
        if len(matching) > 1:
            raise InvalidArgumentError(f"multiple IDs found with provided prefix: {reference}")
        if not matching:
            raise NotFoundError(f"No such container: {reference}")
        return matching[0]

    def users_of_volume(self, name: str) -> list[str]:
        """Ids of the containers that refer to a volume, but for those that are being removed."""
        return [
            container.id
            for container in self._by_id.values()
            if not container.record.state.removing
            and any(point.type == "volume" and point.name == name for point in container.record.mounts)
        ]

    # -- names

    def name_taken(self, name: str) -> bool:
        """Whether a container has the name, or is being made with it."""
        return name in self._names

    def reserve(self, name: str, container_id: str) -> None:
        """Take a name. Raises ConflictError in Docker's words."""
        holder = self._names.get(name)
        if holder is not None:
            raise ConflictError(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = container_id

    def release(self, name: str) -> None:
        """Give a name up that was reserved."""
        self._names.pop(name, None)

    def ids(self) -> set[str]:
        """Of the containers there are and of those that are being made."""
        return set(self._by_id) | set(self._names.values())

    # -- records

    def add(self, record: ContainerRecord) -> Container:
        """Write a new container down; its name has been reserved."""
        self._store.put(record)
        container = self._by_id[record.id] = Container(record)
        container.taken_up, container.in_containerd = True, False
        return container

    def save(self, container: Container) -> None:
        """Write the record down."""
        if container.id in self._by_id:
            self._store.put(container.record)

    def rename(self, container: Container, name: str) -> None:
        """Change the name; the new one has been reserved."""
        old = container.record.name
        container.record.name = name
        try:
            self._store.put(container.record)
        except BaseException:
            container.record.name = old
            raise
        self._names.pop(old, None)

    def remove(self, container: Container) -> None:
        """Forget a container and its execs."""
        self._store.delete(container.id)
        self._by_id.pop(container.id, None)
        self._names.pop(container.record.name, None)
        for exec_id in container.execs:
            self._execs.pop(exec_id, None)

    # -- execs

    def add_exec(self, container: Container, record: ExecRecord) -> Exec:
        """Write a new exec down."""
        self._store.put_exec(record)
        extra = Exec(record)
        self._adopt_exec(container, extra)
        return extra

    def save_exec(self, extra: Exec) -> None:
        """Write an exec's record down."""
        if extra.record.id in self._execs:
            self._store.put_exec(extra.record)

    def exec(self, exec_id: str) -> tuple[Container, Exec]:
        """By id. Raises NotFoundError."""
        found = self._execs.get(exec_id)
        if found is None:
            raise NotFoundError(f"No such exec instance: {exec_id}")
        return found

    def drop_execs(self, exec_ids: list[str]) -> None:
        """Forget execs that ended long ago."""
        self._store.delete_execs(exec_ids)
        for exec_id in exec_ids:
            container, _ = self._execs.pop(exec_id)
            container.execs.pop(exec_id, None)

    def _adopt_exec(self, container: Container, extra: Exec) -> None:
        container.execs[extra.record.id] = extra
        self._execs[extra.record.id] = (container, extra)

    # -- events

    def publish(self, container: Container, action: str, **attributes: str) -> Event:
        """Tell what happened to a container: its labels, image and name go along."""
        record = container.record
        about = {**record.config.labels, "image": record.config.image, "name": record.name, **attributes}
        return self._events.publish("container", action, record.id, about)
