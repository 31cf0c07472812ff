# SPDX-License-Identifier: Apache-2.0
"""Labels of AppArmor and SELinux, written to the process's own attributes in /proc. Runs in the child."""

import os

from orlop.errdefs import InvalidArgumentError, OrlopError
from orlop.libcontainer.errors import explain
from orlop.libcontainer.procfs import open_procfs, write_proc
from orlop.oci.runtime import Process

_OWN = "apparmor/exec"


def set_security_label(process: Process) -> None:
    """The AppArmor profile and SELinux label that apply from the exec on. Raises InvalidArgumentError."""
    if process.apparmor_profile:
        _write("process.apparmorProfile", _OWN, process.apparmor_profile, "exec ")
    if process.selinux_label:
        _write("process.selinuxLabel", "exec", process.selinux_label)


def set_key_label(label: str) -> None:
    """The SELinux label of the keyrings that this process makes from now on; "" is the policy's choice."""
    _write("process.selinuxLabel", "keycreate", label)


def _write(what: str, name: str, label: str, verb: str = "") -> None:
    procfs = open_procfs()
    try:
        if name == _OWN and not _has_own_directory(procfs):
            name = "exec"  # before Linux 5.8 all security modules shared one file
        write_proc(procfs, f"{os.getpid()}/attr/{name}", verb + label)
    except (OSError, OrlopError) as error:
        # AppArmor's answer to a name that it does not know.
        unknown = name == _OWN and isinstance(error, FileNotFoundError)
        reason = "no such profile is loaded" if unknown else explain(error)
        raise InvalidArgumentError(f'{what}: unable to apply "{label}": {reason}') from error
    finally:
        os.close(procfs)


def _has_own_directory(procfs: int) -> bool:
    try:
        os.stat(f"{os.getpid()}/attr/{_OWN}", dir_fd=procfs)
    except FileNotFoundError:
        return False
    return True
