# SPDX-License-Identifier: Apache-2.0
"""A further process in a running container (exec), from the fork to the user's program. Runs in the child."""

import gc
import os
from collections.abc import Callable

import msgspec

from orlop.libcontainer.init import join_keyring, report
from orlop.libcontainer.program import (
    Program,
    become_user,
    execute,
    isolate,
    own_stdio,
    place_stdio,
)
from orlop.libcontainer.scheduling import apply_scheduling
from orlop.libcontainer.security_label import set_security_label
from orlop.libcontainer.sync import CONSOLE, READY, Channel
from orlop.unix import process as proc


class JoinPlan(msgspec.Struct):
    """Everything that the child does, decided before the fork."""

    program: Program
    init_pidfd: int
    namespaces: int  # CLONE_NEW* to enter with it, all but the PID namespace, in which the child is born
    keyring: str = ""
    personality: int | None = None
    root: int = -1  # directory to chroot to, where the container has no mount namespace of its own
    in_user_namespace: bool = False  # born there already, as an ordinary user's must be
    holds: bool = False  # waits for the parent once more before the program runs


def run_join(plan: JoinPlan, channel: Channel, prologue: Callable[[], None]) -> None:
    """The whole life of the child; ends in the user's program or in _exit.

    `prologue` runs first, while the descriptors of the caller are still there: it joins the control group.
    """
    try:
        prologue()
        executable = _set_up(plan, channel)
        channel.send(READY)
        if plan.holds:
            channel.wait_go()
        execute(channel, plan.program, executable, channel.fd)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        report(channel, error)


def _set_up(plan: JoinPlan, channel: Channel) -> str:
    gc.disable()
    isolate(channel, plan.program, [plan.init_pidfd, *([plan.root] if plan.root >= 0 else [])])
    proc.reset_signals()
    os.setsid()
    channel.wait_go()
    if plan.namespaces:
        proc.setns(plan.init_pidfd, plan.namespaces)
    os.close(plan.init_pidfd)
    if plan.in_user_namespace or plan.namespaces & proc.CLONE_NEWUSER:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    if plan.root >= 0:
        os.fchdir(plan.root)
        os.chroot(".")
        os.close(plan.root)
    process = plan.program.process
    if plan.keyring:
        join_keyring(plan.keyring, channel, process.selinux_label, restrict=False, in_user_namespace=False)
    if process.terminal:
        from orlop.libcontainer.terminal import open_terminal, take_terminal  # `prepare_program` has loaded it

        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        master, slave = open_terminal(root, process.console_size)
        os.close(root)
        channel.send(CONSOLE, fd=master)
        os.close(master)
        take_terminal(slave)
        os.close(slave)
    else:
        place_stdio(plan.program.stdio)
    own_stdio(process.user.uid)
    os.umask(0o022)
    set_security_label(process)
    if process.no_new_privileges:
        proc.prctl(proc.PR_SET_NO_NEW_PRIVS, 1)
    apply_scheduling(plan.program.scheduling)
    if plan.personality is not None:
        proc.personality(plan.personality)
    return become_user(channel, plan.program)
