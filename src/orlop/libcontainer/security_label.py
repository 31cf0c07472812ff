# SPDX-License-Identifier: Apache-2.0
"""Labels of AppArmor and SELinux, written to the process's own attributes in /proc. Runs in the child."""

import os

from orlop.errdefs import InvalidArgumentError, OrlopError
from orlop.libcontainer.errors import explain
from orlop.libcontainer.procfs import open_procfs, write_proc
from orlop.oci.runtime import Process


def set_security_label(process: Process) -> None:
    """The AppArmor profile and SELinux label that apply from the exec on. Raises InvalidArgumentError."""
    attributes: list[tuple[str, str]] = []
    if process.apparmor_profile:
        attributes.append(("apparmor/exec", f"exec {process.apparmor_profile}"))
    if process.selinux_label:
        attributes.append(("exec", process.selinux_label))
    if attributes:
        _write(attributes)


def set_key_label(label: str) -> None:
    """The SELinux label of the keyrings that this process makes from now on; "" is the policy's choice."""
    _write([("keycreate", label)])


def _write(attributes: list[tuple[str, str]]) -> None:
    procfs = open_procfs()
    try:
        for name, value in attributes:
            try:
                write_proc(procfs, f"{os.getpid()}/attr/{name}", value)
            except FileNotFoundError:
                if not name.startswith("apparmor/"):
                    raise
                # Before Linux 5.8 all security modules shared one file.
                write_proc(procfs, f"{os.getpid()}/attr/{name.removeprefix('apparmor/')}", value)
    except (OSError, OrlopError) as error:
        raise InvalidArgumentError(f"unable to apply the security label: {explain(error)}") from error
    finally:
        os.close(procfs)
