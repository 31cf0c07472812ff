# SPDX-License-Identifier: Apache-2.0
"""exec: another process in a running container."""

import os

from orlop.codec import decode
from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import Container, ExecOptions
from orlop.libcontainer.journal import set_warning_sink
from orlop.oci.runtime import Capabilities, Process
from orlop.runc.common import check_terminal, preserved_fds, read_document
from orlop.runc.main import Call


def exec(call: Call) -> int:
    """Run the process; without --detach wait for its end and answer its exit code."""
    set_warning_sink(call.log.warning)
    preserved = preserved_fds(call.flags)
    container = Container.load(call.root, call.arguments[0])
    process = _process(call, container)
    flags = call.flags
    detached = flags.flag("detach")
    check_terminal(terminal=process.terminal, detached=detached, socket=flags.text("console-socket"))
    foreground = None
    if not detached:
        from orlop.runc.foreground import Foreground

        foreground = Foreground(subreaper=not flags.flag("no-subreaper"))
    cgroups = flags.items("cgroup")
    if len(cgroups) > 1 or any(":" in cgroup for cgroup in cgroups):
        raise InvalidArgumentError("--cgroup is taken once and without a controller")
    result = container.exec(
        process,
        ExecOptions(
            console_socket=flags.text("console-socket") or None,
            pidfd_socket=flags.text("pidfd-socket") or None,
            pid_file=flags.text("pid-file") or None,
            preserve_fds=preserved,
            ignore_paused=flags.flag("ignore-paused"),
            cgroup=cgroups[0] if cgroups else "",
        ),
    )
    if foreground is None:
        return 0

    def forward(number: int) -> None:
        try:
            os.kill(result.pid, number)
        except ProcessLookupError:
            return  # it ended meanwhile, and that is on its way to us

    return foreground.wait(result.pid, result.console, forward)


def _process(call: Call, container: Container) -> Process:
    flags = call.flags
    if path := flags.text("process"):
        return decode(read_document(path), Process)
    process = container.record.spec.process
    assert process is not None
    process.args = call.arguments[1:]
    if not process.args:
        raise InvalidArgumentError("process args cannot be empty")
    process.terminal = flags.flag("tty")
    process.console_size = None
    process.env = process.env + flags.items("env")
    process.cwd = flags.text("cwd") or process.cwd
    process.apparmor_profile = flags.text("apparmor") or process.apparmor_profile
    process.selinux_label = flags.text("process-label") or process.selinux_label
    if flags.has("no-new-privs"):
        process.no_new_privileges = flags.flag("no-new-privs")
    if caps := flags.items("cap"):
        sets = process.capabilities = process.capabilities or Capabilities()
        # Not the inheritable set: a file with inheritable capabilities would hand them on (CVE-2022-29162).
        for name in ("bounding", "effective", "permitted"):
            setattr(sets, name, [*getattr(sets, name), *caps])
    if user := flags.text("user"):
        uid, _, gid = user.partition(":")
        process.user.uid = _id("uid", uid)
        if gid:
            process.user.gid = _id("gid", gid)
    process.user.additional_gids = process.user.additional_gids + [
        _id("additional gid", gid) for gid in flags.items("additional-gids")
    ]
    return process


def _id(what: str, text: str) -> int:
    # isdigit alone takes digits of every script.
    if not (text.isascii() and text.isdigit()):
        raise InvalidArgumentError(f'{what} is "{text}", expected a number')
    return int(text)
