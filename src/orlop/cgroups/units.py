# SPDX-License-Identifier: Apache-2.0
"""Units of systemd: starting and stopping transient ones, and setting their properties, over D-Bus."""

from orlop.cgroups.unit_properties import Property
from orlop.dbus import Connection, DBusError
from orlop.errdefs import FailedPreconditionError

_SERVICE, _OBJECT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_EXISTS = "org.freedesktop.systemd1.UnitExists"
_GONE = "org.freedesktop.systemd1.NoSuchUnit"


class Units:
    """A connection to systemd, the user's own with `user`, made at the first use, closed by `close`."""

    __slots__ = ("_connection", "_user", "_version")

    def __init__(self, *, user: bool = False) -> None:
        self._user = user
        self._connection: Connection | None = None
        self._version = 0

    def close(self) -> None:
        """Let go of the connection; the next use makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def version(self) -> int:
        """systemd's version, such as 252."""
        if not self._version:
            text = self._property("Version")
            digits = text.lstrip("v")
            end = next((at for at, letter in enumerate(digits) if letter not in "0123456789"), len(digits))
            self._version = int(digits[:end] or 0)
        return self._version

    def group(self) -> str:
        """The control group below which systemd makes those of its units: / or that of the user's systemd."""
        return self._property("ControlGroup")

    def start(self, name: str, properties: list[Property]) -> None:
        """Start a transient unit and wait until it is up. Raises FailedPreconditionError."""
        try:
            try:
                self._start(name, properties)
            except DBusError as error:
                if error.name != _EXISTS:
                    raise
                # What is left of a unit that failed has its name until it is reset.
                self.reset(name)
                self._start(name, properties)
        except DBusError as error:
            raise FailedPreconditionError(f"cannot start systemd unit {name}: {error}") from None

    def stop(self, name: str) -> None:
        """Stop a unit and wait until it is down, and forget its failure; nothing if there is none."""
        try:
            (job,) = self._manager("StopUnit", "ss", name, "replace")
            self._wait(job)
        except DBusError as error:
            if error.name != _GONE:
                raise
        self.reset(name)

    def set_properties(self, name: str, properties: list[Property]) -> None:
        """Change a unit's properties until the next boot. Raises FailedPreconditionError."""
        try:
            self._manager("SetUnitProperties", "sba(sv)", name, True, properties)
        except DBusError as error:
            names = ", ".join(key for key, _ in properties)
            raise FailedPreconditionError(f"cannot set {names} of systemd unit {name}: {error}") from None

    def reset(self, name: str) -> None:
        """Forget that a unit has failed."""
        try:
            self._manager("ResetFailedUnit", "s", name)
        except DBusError as error:
            if error.name != _GONE:
                raise

    def _start(self, name: str, properties: list[Property]) -> None:
        (job,) = self._manager("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", properties, [])
        result = self._wait(job)
        if result != "done":
            self.reset(name)
            raise FailedPreconditionError(f"cannot start systemd unit {name}: its job ended as {result!r}")

    def _wait(self, job: str) -> str:
        """The result of a job, once systemd has removed it."""
        while True:
            message = self._bus().signal()
            if message.member == "JobRemoved" and message.signature == "uoss":
                _, path, _, result = message.values()
                if path == job:
                    return str(result)

    def _manager(self, member: str, signature: str, *values: object) -> tuple[str, ...]:
        return self._bus().call(_SERVICE, _OBJECT, _MANAGER, member, signature, *values)

    def _property(self, name: str) -> str:
        ((_, text),) = self._bus().call(
            _SERVICE, _OBJECT, "org.freedesktop.DBus.Properties", "Get", "ss", _MANAGER, name
        )
        return str(text)

    def _bus(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(user=self._user)
            if self._connection.is_bus:
                self._connection.subscribe(f"type='signal',interface='{_MANAGER}',member='JobRemoved'")
                self._connection.call(_SERVICE, _OBJECT, _MANAGER, "Subscribe")
        return self._connection
