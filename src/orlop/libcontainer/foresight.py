# SPDX-License-Identifier: Apache-2.0
"""Thinking a creation through before it is asked for, in a process that has nothing else to do."""

import msgspec

from orlop import cgroups
from orlop.cgroups import devices
from orlop.errdefs import OrlopError
from orlop.libcontainer import prepare, trampoline
from orlop.libcontainer.rootfs.plan import plan_rootfs
from orlop.libcontainer.validate import validate_spec
from orlop.oci.runtime import Spec


def foresee(spec: Spec, bundle: str) -> None:
    """Compute what Container.create will, and forget it; nothing outside of the process changes.

    It is faster the second time: a forked process copies each page of memory when it first writes to it (some 2 us
    each in a virtual machine), and a seccomp profile is compiled once.
    """
    try:
        validate_spec(spec, bundle)
        assert spec.linux is not None and spec.process is not None
        cgroups.new_manager(spec.linux.cgroups_path or "/orlop")
        devices.evaluate(prepare.effective_resources(spec.linux).devices)
        prepare.prepare_program(spec.process, None, 0, spec.linux, is_exec=False)
        trampoline.available(spec.linux.seccomp)
        plan_rootfs(spec, bundle, {}, no_pivot=False)
        msgspec.json.encode(spec)
    except OrlopError:
        return  # the creation will fail in the same way, and tell
