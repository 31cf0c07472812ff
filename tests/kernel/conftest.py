# SPDX-License-Identifier: Apache-2.0
"""Running a part of a test in fresh namespaces, where it may mount and name what it likes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import pytest

from orlop.unix import mount as mnt
from orlop.unix import process as proc

_ALONE = proc.CLONE_NEWNS | proc.CLONE_NEWUTS | proc.CLONE_NEWIPC | proc.CLONE_NEWNET | proc.CLONE_NEWPID


@pytest.fixture
def alone() -> Callable[[Callable[[], None]], None]:
    """Run a function as PID 1 of new namespaces; a failure there is one here."""

    def run(body: Callable[[], None], flags: int = _ALONE) -> None:
        reader, writer = os.pipe()
        pid, pidfd = proc.clone3(flags)
        if pid == 0:
            try:
                if flags & proc.CLONE_NEWNS:
                    mnt.mount_setattr(mnt.AT_FDCWD, "/", mnt.AT_RECURSIVE, propagation=mnt.MS_PRIVATE)
                body()
            except BaseException:  # noqa: BLE001 - whatever it is, the test has to hear of it
                os.write(writer, traceback.format_exc().encode())
                os._exit(1)
            os._exit(0)
        os.close(writer)
        os.close(pidfd)
        with open(reader, encoding="utf-8") as file:
            text = file.read()
        _, status = os.waitpid(pid, 0)
        assert status == 0, text

    return run
