# SPDX-License-Identifier: Apache-2.0
"""AppArmor's profile for containers, docker-default: what it forbids, and its loading by apparmor_parser(8)."""

import os
import shutil
import subprocess

from orlop.errdefs import FailedPreconditionError

DEFAULT_PROFILE = "docker-default"
PROFILES = "/sys/kernel/security/apparmor/profiles"
"""The names of those that are loaded; it is there where the kernel runs AppArmor."""
_PLACES = ":/usr/sbin:/sbin"
_POLICY = "/etc/apparmor.d"
_INCLUDES = ("tunables/global", "abstractions/base")

# What Docker's profile of this name lets through and holds back, which is why it has the name: whatever
# capabilities and modes of files allow, but for mounts, for what of procfs and sysfs acts on the host, and for
# processes of others.
_RULES = """
  file,
  network,
  capability,
  umount,
  deny mount,

  # Processes of the same profile alone, and the runtime, which is not confined.
  ptrace (read, trace, readby, tracedby) peer=@NAME@,
  signal (send, receive) peer=@NAME@,
  signal (receive) peer=unconfined,

  # In procfs the processes may be written to, and kernel.shm* of the sysctls.
  deny /proc/* w,
  deny /proc/[^0-9s]** w,
  deny /proc/s[^y]** w,
  deny /proc/sys[^/]** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # In sysfs the control groups.
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
"""


def profile_text(name: str, *, include: bool) -> str:
    """The profile in the language of apparmor.d(5); `include`: with what the distribution has for all profiles."""
    variables, base = (f"#include <{path}>\n" if include else "" for path in _INCLUDES)
    rules = _RULES.replace("@NAME@", name)
    return f"{variables}profile {name} flags=(attach_disconnected,mediate_deleted) {{\n{base}{rules}}}\n"


def is_loaded(name: str) -> bool:
    """Whether the kernel has a profile of this name."""
    try:
        with open(PROFILES, encoding="utf-8") as file:
            return any(line.rpartition(" (")[0] == name for line in file)
    except OSError:
        return False


def load_profile(name: str) -> None:
    """Load the profile under that name, unless the kernel has one of it.

    Raises FailedPreconditionError where the kernel runs no AppArmor or the profile cannot be loaded.
    """
    if not os.path.exists(PROFILES):
        raise FailedPreconditionError(f"AppArmor: {name} cannot be loaded: the kernel does not run AppArmor")
    if is_loaded(name):
        return
    program = shutil.which("apparmor_parser", path=os.environ.get("PATH", "") + _PLACES)
    if program is None:
        raise FailedPreconditionError(f"AppArmor: {name} cannot be loaded: apparmor_parser is not installed")
    text = profile_text(name, include=all(os.path.exists(f"{_POLICY}/{path}") for path in _INCLUDES))
    done = subprocess.run([program, "-Kr"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedPreconditionError(f"AppArmor: {name} cannot be loaded: {done.stderr.strip()}")
