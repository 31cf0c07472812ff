# SPDX-License-Identifier: Apache-2.0
"""Cache and memory bandwidth of a container (linux.intelRdt), by the kernel's resctrl filesystem.

Documentation/filesystems/resctrl.rst: a directory is a class of service, its `schemata` what it may use, its
`tasks` who is in it; `mon_groups` below it count.
"""

import os

from orlop.errdefs import FailedPreconditionError, InvalidArgumentError
from orlop.libcontainer.errors import explain
from orlop.oci.runtime import IntelRdt
from orlop.unix import tables


def mountpoint() -> str:
    """Where resctrl is mounted, or "" where it is not (no such processor, or nobody has mounted it)."""
    for line in tables.rows("/proc/self/mountinfo"):
        if " - resctrl " in line:
            return tables.unescape(line.split(" ")[4])
    return ""


class ResourceClass:
    """The class of service of one container, `made` by us unless the spec names one that is there."""

    def __init__(self, rdt: IntelRdt, container_id: str, path: str = "") -> None:
        """The class for `rdt`; `path` is what an earlier one of the container had as its `path`.

        Raises InvalidArgumentError, FailedPreconditionError where resctrl is not mounted.
        """
        self._rdt = rdt
        self._id = container_id
        validate(rdt)
        if not path:
            root = mountpoint()
            if not root:
                raise FailedPreconditionError("linux.intelRdt: resctrl is not mounted (/sys/fs/resctrl)")
            _require_features(root, rdt)
            path = f"{root}/{rdt.clos_id or container_id}"
        self.path = path

    def create(self) -> None:
        """Make the class and write its schemata."""
        schemata = _schemata(self._rdt)
        if self._rdt.clos_id and not schemata and not os.path.isdir(self.path):
            raise InvalidArgumentError(
                f"linux.intelRdt.closID: {self.path} has to be there already where no schemata are given"
            )
        try:
            os.mkdir(self.path, 0o755)
        except FileExistsError:
            pass  # a class that containers share
        except OSError as error:
            raise self._refused(error) from None
        try:
            self._write_schemata(schemata)
            if self._rdt.enable_monitoring:
                os.makedirs(self._monitor(), 0o755, exist_ok=True)
        except OSError as error:
            self.destroy()
            raise self._refused(error) from None
        except InvalidArgumentError:
            self.destroy()
            raise

    def add(self, pid: int) -> None:
        """Put a process into it; its children follow."""
        try:
            _write(f"{self.path}/tasks", str(pid))
            if self._rdt.enable_monitoring:
                _write(f"{self._monitor()}/tasks", str(pid))
        except OSError as error:
            raise self._refused(error) from None

    def update(self, l3: str, bandwidth: str) -> None:
        """Change what it may use; empty leaves it."""
        self._write_schemata([line for line in (l3, bandwidth) if line])

    def destroy(self) -> None:
        """Remove what was made for the container alone: the class, or its monitoring in a named one."""
        try:
            if not self._rdt.clos_id:
                os.rmdir(self.path)
            elif self._rdt.enable_monitoring:
                os.rmdir(self._monitor())
        except FileNotFoundError:
            return

    def _monitor(self) -> str:
        return f"{self.path}/mon_groups/{self._id}"

    def _write_schemata(self, lines: list[str]) -> None:
        if not lines:
            return
        try:
            _write(f"{self.path}/schemata", "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise self._refused(error, " ".join(lines)) from None

    def _refused(self, error: OSError, what: str = "") -> InvalidArgumentError:
        """The kernel's own words about the last thing that was asked of resctrl say more than an error number."""
        try:
            with open(f"{os.path.dirname(self.path)}/info/last_cmd_status", encoding="utf-8") as file:
                said = file.read().strip()
        except OSError:
            said = ""
        reason = said if said and said != "ok" else explain(error)
        return InvalidArgumentError(f"linux.intelRdt: {what + ': ' if what else ''}{reason}")


def validate(rdt: IntelRdt) -> None:
    """What can be said without looking at resctrl. Raises InvalidArgumentError."""
    if rdt.clos_id in (".", "..") or ("/" in rdt.clos_id and rdt.clos_id != "/"):
        raise InvalidArgumentError(f'linux.intelRdt.closID is "{rdt.clos_id}", expected the name of a class')
    for name, line in (("l3CacheSchema", rdt.l3_cache_schema), ("memBwSchema", rdt.mem_bw_schema)):
        if "\n" in line.rstrip("\n"):
            raise InvalidArgumentError(f"linux.intelRdt.{name} is more than one line")


def _require_features(root: str, rdt: IntelRdt) -> None:
    for name, wanted, feature in (
        ("l3CacheSchema", rdt.l3_cache_schema, "L3"),
        ("memBwSchema", rdt.mem_bw_schema, "MB"),
    ):
        if wanted and not any(entry.startswith(feature) for entry in os.listdir(f"{root}/info")):
            raise FailedPreconditionError(f"linux.intelRdt.{name}: this machine has no control of {feature}")


def _schemata(rdt: IntelRdt) -> list[str]:
    lines = [rdt.l3_cache_schema, rdt.mem_bw_schema, *rdt.schemata]
    return [line.rstrip("\n") for line in lines if line]


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
