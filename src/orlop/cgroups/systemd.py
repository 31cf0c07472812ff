# SPDX-License-Identifier: Apache-2.0
"""Control groups that systemd makes: a transient scope (or slice) for each container.

A scope cannot be without a process, and a container has none yet when its groups are made. A holder, a child that
waits for its end, stands in until the container's first process is in; then `settle` ends it.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import msgspec

from orlop.cgroups.hierarchies import Mount, container_paths, mode, mounts
from orlop.cgroups.manager import Manager
from orlop.cgroups.rootless import may_enter
from orlop.cgroups.unit_properties import (
    Property,
    annotated_properties,
    complete_quota,
    properties_v1,
    properties_v2,
    round_quota,
)
from orlop.cgroups.units import Units
from orlop.cgroups.v1 import ManagerV1
from orlop.cgroups.v2 import ManagerV2
from orlop.cgroups.write import read_file, write_file
from orlop.errdefs import FailedPreconditionError, InvalidArgumentError
from orlop.oci.runtime import Resources
from orlop.unix import process as proc

_DEFAULT_SLICE, _USERS_SLICE = "system.slice", "user.slice"
_WAIT_FOR_ANY = 0x40000000  # __WALL of waitpid(2): children that end without a signal too
_PIDS_MAX = "pids.max"


def new_systemd_manager(cgroups_path: str, annotations: Mapping[str, str]) -> Manager:
    """The manager of a new container, by `slice:prefix:name`; `annotations` of its spec may set properties.

    Raises InvalidArgumentError for the path, FailedPreconditionError where systemd does not run.
    """
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        raise FailedPreconditionError("systemd cgroup driver: this system does not run systemd (use cgroupfs)")
    user = of_user()
    if user and mode() != "v2":
        raise FailedPreconditionError(
            "systemd cgroup driver: an ordinary user needs control groups version 2 alone"
        )
    slice_, name = parse_path(cgroups_path, _USERS_SLICE if user else _DEFAULT_SLICE)
    unit = Unit(name, slice_, annotated_properties(annotations), user=user)
    above = unit.systemd.group().rstrip("/") if user else ""
    return _manager(container_paths(f"{above}{expand_slice(slice_)}/{name}", unified=mode() == "v2"), unit)


def load_systemd_manager(paths: dict[str, str]) -> Manager:
    """The manager of a container whose unit exists, by what `Manager.paths()` said."""
    return _manager(paths, Unit(os.path.basename(next(iter(paths.values()))), user=of_user()))


def _manager(paths: dict[str, str], unit: "Unit") -> Manager:
    return SystemdManagerV2(paths, unit) if "" in paths else SystemdManagerV1(paths, unit)


def of_user() -> bool:
    """Whether it is the systemd of this user that makes the groups, not the machine's."""
    return os.geteuid() != 0 or proc.in_user_namespace()


def parse_path(cgroups_path: str, default: str = _DEFAULT_SLICE) -> tuple[str, str]:
    """The slice, `default` where it is left out, and the unit of a cgroups path `slice:prefix:name`.

    Raises InvalidArgumentError."""
    parts = cgroups_path.split(":")
    if len(parts) != 3:
        raise InvalidArgumentError(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{cgroups_path}"'
            " instead"
        )
    slice_, prefix, name = parts
    if not name or set(name + prefix) & set("/\0"):
        raise InvalidArgumentError(f'cgroupsPath "{cgroups_path}": "{name}" is not the name of a unit')
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return slice_ or default, unit


def expand_slice(slice_: str) -> str:
    """The directory of a slice: /a.slice/a-b.slice for a-b.slice, as systemd.slice(5) says.

    Raises InvalidArgumentError.
    """
    name = slice_.removesuffix(".slice")
    if slice_ == "-.slice":
        return ""
    if not slice_.endswith(".slice") or not all(name.split("-")) or set(name) & set("/\0"):
        raise InvalidArgumentError(f"invalid slice name: {slice_}")
    parts = name.split("-")
    return "".join(f"/{'-'.join(parts[: end + 1])}.slice" for end in range(len(parts)))


class Unit:
    """The transient unit of one container, and the holder that stands in for its first process."""

    __slots__ = ("_extra", "_holder", "_leash", "name", "slice", "systemd")

    def __init__(
        self, name: str, slice_: str = _DEFAULT_SLICE, extra: Sequence[Property] = (), *, user: bool = False
    ) -> None:
        self.name = name
        self.slice = slice_
        self._extra = extra
        self.systemd = Units(user=user)
        self._holder = 0
        self._leash = -1

    def start(self, io_accounting: str) -> None:
        """Have systemd make the unit. Raises FailedPreconditionError."""
        properties: list[Property] = [
            ("Description", ("s", f"orlop container {self.name.rpartition('.')[0]}")),
            *((name, ("b", True)) for name in ("MemoryAccounting", "CPUAccounting", io_accounting)),
            ("TasksAccounting", ("b", True)),
            ("DefaultDependencies", ("b", False)),
        ]
        if self.name.endswith(".slice"):
            properties.append(("Wants", ("as", [self.slice])))
        else:
            self._hold()
            properties += [
                ("Slice", ("s", self.slice)), ("Delegate", ("b", True)), ("PIDs", ("au", [self._holder])),
            ]  # fmt: skip
        try:
            self.systemd.start(self.name, [*properties, *self._extra])
        except FailedPreconditionError as error:
            self.release()
            if not self._extra:
                raise
            # systemd names the property only where it does not know it.
            names = ", ".join(name for name, _ in self._extra)
            raise FailedPreconditionError(f"{error} (annotations set {names})") from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """End the holder, if there is one."""
        if self._holder:
            os.close(self._leash)
            try:
                os.waitpid(self._holder, _WAIT_FOR_ANY)
            except ChildProcessError:
                pass  # somebody who waits for any child was first
            self._holder, self._leash = 0, -1

    def stop(self) -> None:
        """Have systemd remove the unit."""
        self.release()
        try:
            self.systemd.stop(self.name)
        finally:
            self.systemd.close()

    def _hold(self) -> None:
        mine, leash = os.pipe2(os.O_CLOEXEC)
        # No signal tells of its end, so nobody's handler of SIGCHLD meets it.
        pid, pidfd = proc.clone3(exit_signal=0)
        if pid == 0:
            try:
                os.dup2(mine, 3)
                proc.close_range(4)
                for fd in (0, 1, 2):
                    os.close(fd)
                os.read(3, 1)  # returns when the leash is let go, or this process's parent has died
            finally:
                proc.exit_now(0)
        os.close(mine)
        os.close(pidfd)
        self._holder, self._leash = pid, leash


class SystemdManagerV2(ManagerV2):
    """The scope's directory of the one hierarchy."""

    __slots__ = ("_later", "_unit")

    def __init__(self, paths: dict[str, str], unit: Unit) -> None:
        super().__init__({"": paths[""]})
        self._unit = unit
        self._later: Resources | None = None

    def create(self) -> None:
        path = self._paths[""]
        if not may_enter(path):
            raise FailedPreconditionError(
                f"cannot move processes into {path}: permission denied (a user's systemd has a say over its own "
                "units alone: run this in one, such as by systemd-run --user --scope)"
            )
        self._unit.start("IOAccounting")
        _or_stop(self._unit, super().create)

    def apply(self, resources: Resources) -> None:
        self._apply(resources, super().apply)

    def apply_limits(self, resources: Resources) -> None:
        self._apply(resources, super().apply_limits)

    def _apply(self, resources: Resources, write: Callable[[Resources], None]) -> None:
        resources = round_quota(complete_quota(resources, self._quota))
        if self._fresh:
            resources, self._later = _part_pids(resources)
        properties = properties_v2(resources, self._unit.systemd.version())
        if properties:
            self._unit.systemd.set_properties(self._unit.name, properties)
        write(resources)
        if self._later is None:
            self._unit.systemd.close()

    def settle(self) -> None:
        self._unit.release()
        later, self._later = self._later, None
        self.apply(later or Resources())

    def exists(self) -> bool:
        return True  # systemd may remember a failure of the unit when its directory is gone

    def remove_if_empty(self) -> bool:
        return False  # there is a unit to be stopped

    def destroy(self) -> None:
        self._unit.stop()
        super().destroy()

    def _quota(self) -> tuple[int, int]:
        quota, period = read_file(self._directory(""), "cpu.max").split()
        return -1 if quota == "max" else int(quota), int(period)

    def _refuse_if_in_use(self) -> None:
        return  # systemd has refused a name that is in use


class SystemdManagerV1(ManagerV1):
    """The scope's directories in the hierarchies that systemd manages, and our own in the others."""

    __slots__ = ("_later", "_unit")

    def __init__(self, paths: dict[str, str], unit: Unit) -> None:
        super().__init__(paths)
        self._unit = unit
        self._later: Resources | None = None

    def create(self) -> None:
        self._unit.start("BlockIOAccounting")
        _or_stop(self._unit, super().create)

    def apply(self, resources: Resources) -> None:
        resources = round_quota(complete_quota(resources, self._quota))
        fresh = self._fresh
        if fresh:
            resources, self._later = _part_pids(resources)
        with_devices = fresh or bool(resources.devices)
        properties = properties_v1(resources, self._unit.systemd.version(), with_devices)
        # systemd first denies all devices, then allows them one by one: nobody may run meanwhile.
        freezes = with_devices and not fresh and not self.frozen()
        if freezes:
            self.freeze()
        try:
            if properties:
                self._unit.systemd.set_properties(self._unit.name, properties)
            super().apply(resources)
        finally:
            if freezes:
                self.thaw()
        if self._later is None:
            self._unit.systemd.close()

    def settle(self) -> None:
        self._unit.release()
        later, self._later = self._later, None
        self.apply(later or Resources())

    def exists(self) -> bool:
        return True

    def remove_if_empty(self) -> bool:
        return False  # there is a unit to be stopped

    def destroy(self) -> None:
        self._unit.stop()
        super().destroy()

    def _enter(self, file: str, pid: int) -> None:
        super()._enter(file, pid)
        # On a hybrid system it is the version 2 group by which systemd knows whether a scope is empty.
        if (path := _unified_path(self._paths)) is not None:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                write_file(directory, "cgroup.procs", str(pid))
            finally:
                os.close(directory)

    def _quota(self) -> tuple[int, int]:
        directory = self._directory("cpu")
        quota, period = (read_file(directory, f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        return int(quota), int(period)

    def _refuse_if_in_use(self) -> None:
        return


def _or_stop(unit: Unit, create: Callable[[], None]) -> None:
    try:
        create()
    except BaseException:
        unit.stop()
        raise


def _part_pids(resources: Resources) -> tuple[Resources, Resources]:
    """What can be set while the holder is there, and the limit of processes, which it would count against."""
    unified = dict(resources.unified)
    pids_max = unified.pop(_PIDS_MAX, None)
    later = Resources(pids=resources.pids, unified={} if pids_max is None else {_PIDS_MAX: pids_max})
    return msgspec.structs.replace(resources, pids=None, unified=unified), later


def _unified_path(paths: dict[str, str]) -> str | None:
    """The version 2 directory of the same unit on a hybrid system, if systemd has made it."""
    for controllers, mountpoint, _ in mounts():
        if not controllers:
            path = mountpoint + _below_mount(next(iter(paths.values())), mounts())
            return path if os.path.isdir(path) else None
    return None


def _below_mount(path: str, found: list[Mount]) -> str:
    mountpoint = max((point for _, point, _ in found if path.startswith(point + "/")), key=len)
    return path[len(mountpoint) :]


__all__ = ["load_systemd_manager", "new_systemd_manager"]
