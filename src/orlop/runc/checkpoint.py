# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore: a container written to files by CRIU, and brought back."""

import os

from orlop.libcontainer import CheckpointOptions, Container, RestoreOptions
from orlop.libcontainer.journal import set_warning_sink
from orlop.runc.common import check_terminal, create_options, load_bundle
from orlop.runc.main import Call, absolute
from orlop.runc.parse import Flags
from orlop.runc.run import attend

_BOOLEANS = ("tcp_established", "ext_unix_sk", "shell_job", "file_locks", "auto_dedup", "lazy_pages")


def checkpoint(call: Call) -> int:
    """Write the images, and delete the container unless it runs on."""
    set_warning_sink(call.log.warning)
    if os.geteuid() != 0:
        call.log.warning("runc checkpoint is untested with rootless containers")
    flags = call.flags
    container = Container.load(call.root, call.arguments[0])
    options = CheckpointOptions(
        image_path=_image_path(flags),
        leave_running=flags.flag("leave-running"),
        pre_dump=flags.flag("pre-dump"),
        parent_path=flags.text("parent-path"),
        page_server=flags.text("page-server"),
        status_fd=flags.number("status-fd") if flags.has("status-fd") else -1,
        tcp_skip_in_flight=flags.flag("tcp-skip-in-flight"),
        link_remap=flags.flag("link-remap"),
    )
    _common(options, flags)
    container.checkpoint(options)
    if not options.leave_running and not options.pre_dump:
        container.delete(force=True)
    return 0


def restore(call: Call) -> int:
    """Bring a container back; without --detach wait for its end, delete it, and answer its exit code."""
    bundle, spec = load_bundle(call)
    flags = call.flags
    detached = flags.flag("detach")
    terminal = spec.process is not None and spec.process.terminal
    check_terminal(terminal=terminal, detached=detached, socket=flags.text("console-socket"))
    create = create_options(call)
    foreground = None
    if not detached:
        from orlop.runc.foreground import Foreground

        foreground = Foreground(subreaper=not flags.flag("no-subreaper"))
    images = RestoreOptions(
        image_path=_image_path(flags),
        tcp_close=flags.flag("tcp-close"),
        lsm_profile=flags.text("lsm-profile"),
        lsm_mount_context=flags.text("lsm-mount-context"),
    )
    _common(images, flags)
    container = Container.restore(call.root, call.arguments[0], bundle, spec, create, images)
    return 0 if foreground is None else attend(call, container, foreground)


def _image_path(flags: Flags) -> str:
    return absolute(flags.text("image-path") or "checkpoint")


def _common(options: CheckpointOptions | RestoreOptions, flags: Flags) -> None:
    options.work_path = flags.text("work-path")
    options.manage_cgroups_mode = flags.text("manage-cgroups-mode")
    options.empty_ns = flags.items("empty-ns")
    options.network_lock = flags.text("network-lock")
    for name in _BOOLEANS:
        setattr(options, name, flags.flag(name.replace("_", "-")))
