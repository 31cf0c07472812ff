# SPDX-License-Identifier: Apache-2.0
"""Creates, lists, mounts and removes volumes."""

import os
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from orlop.dockerd.plugins.client import Plugins
from orlop.dockerd.plugins.discovery import Discovery
from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.dockerd.volumes import copyup, local_mount, subpath
from orlop.dockerd.volumes.plugin_driver import PluginDrivers, PluginVolume
from orlop.dockerd.volumes.store import VolumeRow, VolumeStore
from orlop.dockerd.volumes.volume import NAME, Volume, check_name, name_conflict, now, of_plugin, without_driver
from orlop.errdefs import (
    ConflictError,
    InternalError,
    NotFoundError,
    OrlopError,
)

_ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_TRASH = ".removed-"
_STAGE = ".copied-"
_COPYING = "(copy-up)"


class VolumeService:
    """All calls block: dockerd runs them in threads. One lock a volume; safe to call from several threads.

    `connect` returns a connection to dockerd's database that this thread may use (a fresh one or a shared one made
    with `check_same_thread=False`); `init_schema` has been called on it. `users_of(name)` answers the ids of the
    containers that refer to a volume.
    """

    def __init__(
        self,
        root: Path,
        connect: Callable[[], sqlite3.Connection],
        users_of: Callable[[str], list[str]],
        drivers: PluginDrivers | None = None,
        outside: copyup.Shift = copyup.as_they_are,
    ) -> None:
        self._root = root
        self._store = VolumeStore(connect)
        self._users_of = users_of
        self._outside = outside
        self._drivers = drivers or PluginDrivers(Plugins(Discovery([], [])))
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(
        self,
        name: str = "",
        driver: str = "local",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """Create a volume, or return the one of that name. An empty name makes an anonymous one.

        Raises InvalidArgumentError, NotFoundError (driver), ConflictError (another driver's name), and a driver's.
        """
        anonymous = not name
        name = name or secrets.token_hex(32)
        labels = dict(labels or {}) | ({_ANONYMOUS_LABEL: ""} if anonymous else {})
        driver = driver or "local"
        row = VolumeRow(
            name=name,
            created_at=now(),
            labels=labels,
            options=dict(options or {}),
            anonymous=anonymous,
            driver=driver,
        )
        try:
            if driver == "local":
                check_name(name)
                local_mount.check_options(row.options)
            with self._locked(name):
                there = self._store.get(name)
                if there is None:
                    self._make(row)
                elif there.driver != driver:
                    raise name_conflict(there)
                row = there or row
        except OrlopError as error:
            raise type(error)(f"create {name}: {error}") from None
        return self._volume(row)

    def _make(self, row: VolumeRow) -> None:
        if row.driver == "local":
            self._make_directory(row.name)
        else:
            self._drivers.get(row.driver).create(row.name, row.options)
        self._store.insert(row)

    def driver_names(self) -> list[str]:
        """The drivers that there are."""
        return ["local", *self._drivers.names()]

    def get(self, name: str) -> Volume:
        """Raises NotFoundError `get <name>: no such volume`."""
        row = self._store.get(name)
        if row is not None:
            return self._volume(row)
        for driver in self._drivers.all():
            # One that was made by somebody else, on another machine perhaps.
            if (found := driver.get(name)) is not None and found.name == name:
                row = VolumeRow(name=name, created_at=found.created_at or now(), driver=driver.name)
                self._store.insert(row)
                return of_plugin(row, found, driver)
        raise NotFoundError(f"get {name}: no such volume")

    def list(self) -> list[Volume]:
        """Every volume, by name (filters are the API's business), those that only plugins know among them."""
        rows = {row.name: row for row in self._store.list()}
        found = [self._volume(row) for row in rows.values() if row.driver == "local"]
        told = self._drivers.listed()
        for name, (volume, driver) in told.items():
            row = rows.get(name) or VolumeRow(name=name, created_at=volume.created_at, driver=driver.name)
            if row.driver == driver.name:
                found.append(of_plugin(row, volume, driver))
        missing = [row for row in rows.values() if row.driver != "local" and row.name not in told]
        return sorted([*found, *map(without_driver, missing)], key=lambda volume: volume.name)

    def remove(self, name: str, force: bool = False) -> None:
        """Delete a volume and its content.

        Raises NotFoundError (not with `force`) and ConflictError `remove <name>: volume is in use - [<id>, …]`.
        """
        with self._locked(name):
            row = self._store.get(name)
            if row is None:
                if force:
                    return
                raise NotFoundError(f"get {name}: no such volume")
            users = sorted({*self._users_of(name), *self._store.holders(name)})
            if users:
                raise ConflictError(f"remove {name}: volume is in use - [{', '.join(users)}]")
            if row.driver != "local":
                self._remove_at_plugin(row, force)
                return
            trash = self._root / f"{_TRASH}{name}"
            try:
                for _, place, _ in self._store.subpaths(name):
                    subpath.release(Path(place))
                local_mount.unmount_volume(str(self._data(name)))
                if (self._root / name).exists():
                    os.rename(self._root / name, trash)
                self._store.delete(name)
                # From here on the volume is gone for everybody; a crash leaves what `reconcile` throws away.
                shutil.rmtree(trash)
            except FileNotFoundError:
                self._store.delete(name)
            except OSError as error:
                raise InternalError(f"remove {name}: {_reason(error)}") from None

    def _remove_at_plugin(self, row: VolumeRow, force: bool) -> None:
        for _, place, _ in self._store.subpaths(row.name):
            subpath.release(Path(place))
        try:
            self._drivers.get(row.driver).remove(row.name)
        except OrlopError as error:
            if not force:
                raise type(error)(f"remove {row.name}: {error}") from None
        self._store.delete(row.name)

    def resolve(self, point: MountPoint, container_id: str) -> MountPoint:
        """Give a volume mount point its volume (created when missing): name, driver and source filled in.

        Other types of mount points are returned as they are. Raises what `create` raises.
        """
        if point.type != "volume":
            return point
        options = point.spec.volume_options if point.spec else None
        if point.source and point.name:
            volume = self.get(point.name)  # inherited from another container
        else:
            driver_options = options.driver_config.options if options and options.driver_config else {}
            labels = options.labels if options else None
            there = self._store.get(point.name) if point.driver in ("", "local") else None
            # Who names no driver means the volume of that name, whatever its driver is.
            driver = there.driver if there else point.driver
            volume = self.create(point.name, driver, driver_options, labels)
        source = volume.mountpoint
        part = options.subpath if options else ""
        if part:
            # What is there now may be something else at the start: `mount` looks, and binds it here.
            source = str(subpath.place_of(self._root, container_id, point.destination))
            self._store.add_subpath(volume.name, container_id, source, part)
        return msgspec.structs.replace(
            point,
            name=volume.name,
            driver=volume.driver,
            source=source,
            copy_data=point.copy_data and not part,
            mode=point.mode or ("" if point.anonymous else "z"),
        )

    def mount(self, name: str, container_id: str) -> str:
        """Make the content available for a start; returns the host path. Counted by container.

        Raises NotFoundError, and InternalError with the kernel's reason.
        """
        with self._locked(name):
            volume = self.get(name)
            path = volume.mountpoint
            if volume.driver != "local":
                path = self._mount_at_plugin(volume, container_id)
            elif local_mount.needs_mount(volume.options):
                if not local_mount.is_mounted(path):
                    try:
                        local_mount.mount_volume(volume.options, path)
                    except OrlopError as error:
                        raise InternalError(f"error while mounting volume '{path}': {error}") from None
                self._store.hold(name, container_id)
            elif not os.path.isdir(path):
                raise InternalError(f"error while mounting volume '{path}': the directory is gone")
            for owner, place, part in self._store.subpaths(name):
                if owner == container_id:
                    self._bind_part(path, part, Path(place))
        return path

    def unmount(self, name: str, container_id: str) -> None:
        """The container has stopped; unmounts a volume with `type`/`o`/`device` options when nobody is left."""
        with self._locked(name):
            row = self._store.get(name)
            if row is None:
                return
            try:
                for owner, place, _ in self._store.subpaths(name):
                    if owner == container_id:
                        subpath.release(Path(place))
                if row.driver != "local":
                    if container_id in self._store.holders(name):
                        self._drivers.get(row.driver).unmount(name, container_id)
                        self._store.release(name, container_id)
                elif local_mount.needs_mount(row.options):
                    self._store.release(name, container_id)
                    if not self._store.holders(name):
                        local_mount.unmount_volume(str(self._data(name)))
            except OSError as error:
                raise InternalError(f"error while unmounting volume '{name}': {_reason(error)}") from None

    def _mount_at_plugin(self, volume: Volume, container_id: str) -> str:
        try:
            path = self._drivers.get(volume.driver).mount(volume.name, container_id)
        except OrlopError as error:
            raise type(error)(f"error while mounting volume '{volume.name}': {error}") from None
        self._store.hold(volume.name, container_id)
        return path

    def copy_up(self, name: str, root: int, destination: str) -> bool:
        """Fill an empty volume with what the image has at `destination` below the directory descriptor `root`.

        Keeps owners, modes, times, extended attributes, links and devices, and gives the volume's own directory
        those of the image's. Returns whether anything was done; does nothing when the volume has content.
        """
        source = copyup.open_source(root, destination)
        if source is None:
            return False
        try:
            path = self.mount(name, _COPYING)
            try:
                with self._locked(name):
                    return self._fill(name, source, path)
            finally:
                self.unmount(name, _COPYING)
        except OSError as error:
            raise InternalError(f"failed to copy {destination} into volume {name}: {_reason(error)}") from None
        finally:
            os.close(source)

    def disk_usage(self, name: str) -> int:
        """Bytes that the content takes, each inode once; -1 where that is a plugin's business."""
        row = self._store.get(name)
        if row is None or row.driver != "local":
            return -1
        return copyup.size_of(self.get(name).mountpoint)

    def reconcile(self) -> None:
        """At the daemon's start: finish or undo what a crash left half-done.

        Removed volumes' leftovers are deleted; directories without a row, which a crash between the two left (or
        a lost database), become volumes again; a row whose directory is gone gets an empty one. Who is said to
        have mounted a volume that is not mounted (the host was started anew) does not have it any more.
        """
        known = {row.name for row in self._store.list()}
        for entry in sorted(os.scandir(self._root), key=lambda entry: entry.name):
            if not entry.is_dir(follow_symlinks=False):
                continue
            if entry.name.startswith(_TRASH):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name not in known and NAME.fullmatch(entry.name):
                self._store.insert(VolumeRow(name=entry.name, created_at=now()))
                known.add(entry.name)
        for name in known - {row.name for row in self._store.list() if row.driver != "local"}:
            self._make_directory(name)
            shutil.rmtree(self._root / name / _STAGE, ignore_errors=True)
            self._store.release(name, _COPYING)
            if self._store.holders(name) and not local_mount.is_mounted(str(self._data(name))):
                for holder in self._store.holders(name):
                    self._store.release(name, holder)
            self._forget_parts(name)

    def _forget_parts(self, name: str) -> None:
        """Let go of parts that belong to containers which are no more."""
        users = set(self._users_of(name))
        for owner, place, _ in self._store.subpaths(name):
            if owner not in users:
                subpath.release(Path(place))
                self._store.delete_subpath(place)

    def _bind_part(self, path: str, part: str, place: Path) -> None:
        try:
            subpath.bind(path, part, place)
        except OSError as error:
            raise InternalError(f"error while mounting volume subpath '{part}': {_reason(error)}") from None

    def _fill(self, name: str, source: int, path: str) -> bool:
        if os.listdir(path):
            return False
        row = self._store.get(name)
        whole = (
            row is None
            or row.driver != "local"
            or local_mount.needs_mount(row.options)
            or len(self._users_of(name)) > 1
        )
        # Filled aside and renamed into place, so that a crash leaves no half of it; not under a container's feet.
        stage = path if whole else str(self._root / name / _STAGE)
        if not whole:
            shutil.rmtree(stage, ignore_errors=True)
            os.mkdir(stage, 0o700)
        target = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            copyup.copy_tree(source, target, self._outside)
        finally:
            os.close(target)
        if not whole:
            os.rename(stage, path)
        return True

    def _make_directory(self, name: str) -> None:
        try:
            (self._root / name).mkdir(mode=0o701, exist_ok=True)
            data = self._data(name)
            if not data.is_dir():
                data.mkdir(mode=0o755)
                os.chown(data, *self._outside(0, 0))
        except OSError as error:
            raise InternalError(f"create {name}: {_reason(error)}") from None

    def _data(self, name: str) -> Path:
        return self._root / name / "_data"

    def _volume(self, row: VolumeRow) -> Volume:
        if row.driver != "local":
            try:
                driver = self._drivers.get(row.driver)
                return of_plugin(row, driver.get(row.name) or PluginVolume(), driver)
            except OrlopError:
                return without_driver(row)
        return Volume(
            name=row.name,
            mountpoint=str(self._data(row.name)),
            created_at=row.created_at,
            labels=row.labels,
            options=row.options,
            anonymous=row.anonymous,
        )

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """The lock of one volume, made at its first use and dropped after the last."""
        with self._guard:
            lock, waiting = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, waiting = self._locks[name]
                if waiting == 1:
                    del self._locks[name]
                else:
                    self._locks[name] = (lock, waiting - 1)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()
