# SPDX-License-Identifier: Apache-2.0
"""Capability names as bits, and applying the five sets of a process."""

from orlop.oci.runtime import Capabilities
from orlop.unix import process as proc

# capabilities(7), in the order of linux/capability.h.
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
_NUMBERS = {name: number for number, name in enumerate(NAMES)}


class CapabilitySets:
    """The five sets as bit sets, and the names that nobody knows."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted", "unknown")

    def __init__(self, spec: Capabilities | None) -> None:
        self.unknown: set[str] = set()
        wanted = spec or Capabilities()
        self.bounding = self._bits(wanted.bounding)
        self.effective = self._bits(wanted.effective)
        self.permitted = self._bits(wanted.permitted)
        self.inheritable = self._bits(wanted.inheritable)
        self.ambient = self._bits(wanted.ambient)

    def _bits(self, names: list[str]) -> int:
        bits = 0
        for name in names:
            number = _NUMBERS.get(name)
            if number is None:
                self.unknown.add(name)
            else:
                bits |= 1 << number
        return bits

    def limit(self, available: int) -> list[str]:
        """Take out what the runtime itself has not; the names taken out."""
        missing = (self.bounding | self.effective | self.permitted | self.inheritable) & ~available
        self.bounding &= available
        self.effective &= available
        self.permitted &= available
        self.inheritable &= available
        # The kernel raises only what is permitted and inheritable; specs with more are common.
        self.ambient &= self.permitted & self.inheritable
        return [name for number, name in enumerate(NAMES) if missing >> number & 1]

    def drop_bounding(self) -> None:
        """Drop from the bounding set what is not in ours; needs CAP_SETPCAP, so before changing the user."""
        for number in range(64):
            if not self.bounding >> number & 1:
                try:
                    proc.prctl(proc.PR_CAPBSET_DROP, number)
                except OSError:
                    # EINVAL: past the last capability that this kernel has.
                    if number < len(NAMES) and proc.prctl(proc.PR_CAPBSET_READ, number):
                        raise
                    break

    def apply(self) -> None:
        """Set the other four, after the user has changed under PR_SET_KEEPCAPS."""
        proc.capset(self.effective, self.permitted, self.inheritable)
        proc.prctl(proc.PR_CAP_AMBIENT, proc.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in range(len(NAMES)):
            if self.ambient >> number & 1:
                proc.prctl(proc.PR_CAP_AMBIENT, proc.PR_CAP_AMBIENT_RAISE, number)
