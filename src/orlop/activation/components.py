# SPDX-License-Identifier: Apache-2.0
"""The table of what `orlop daemon` looks after."""

import sys
from typing import NamedTuple

from orlop.activation.layout import DEFAULT_DATA_ROOT, DEFAULT_RUN_DIR, Layout

SOCKET = "socket"


class Component(NamedTuple):
    """A daemon: how it is started, what has to be ready before, and the systemd unit that stands for it.

    Every daemon says READY=1 to NOTIFY_SOCKET (sd_notify(3)) when it serves. `brings` are started along with it,
    but not waited for. With `activated` it gets the API socket as descriptor 3 (sd_listen_fds(3)). `lock` is a
    file whose holder, named in it by its process id, may be a process that somebody else started.
    """

    name: str
    argv: tuple[str, ...]
    listening: str
    unit: str
    needs: tuple[str, ...] = ()
    brings: tuple[str, ...] = ()
    activated: bool = False
    lock: str = ""
    environ: tuple[tuple[str, str], ...] = ()
    stop_seconds: float = 10.0


def table(layout: Layout, dockerd_arguments: tuple[str, ...] = ()) -> tuple[Component, ...]:
    """The daemons of an installation, in the order in which they are to be stopped."""
    python = (sys.executable, "-P", "-m")
    dockerd = ["-H", "fd://"]
    # Only what differs is said on the command line: a key in daemon.json and a flag for it would be a conflict.
    if layout.data_root != DEFAULT_DATA_ROOT:
        dockerd += ["--data-root", layout.data_root]
    if layout.run_dir != DEFAULT_RUN_DIR:
        dockerd += ["--exec-root", layout.run_dir, "--containerd", layout.containerd_socket]
    containerd = ["--address", layout.containerd_socket, "--state", f"{layout.run_dir}/containerd"]
    containerd += ["--root", f"{layout.data_root}/containerd"]
    return (
        Component(
            name="dockerd",
            argv=(*python, "orlop.dockerd.main", *dockerd, *dockerd_arguments),
            listening=layout.api_socket,
            unit="orlop.service",
            needs=("containerd",),
            brings=("netd",),
            activated=True,
            environ=(("ORLOP_NETD_SUPERVISED", "1"),),
            stop_seconds=20.0,
        ),
        Component(
            name="containerd",
            argv=(*python, "orlop.containerd.main", *containerd),
            listening=layout.containerd_socket,
            unit="orlop-containerd.service",
        ),
        Component(
            name="netd",
            argv=(*python, "orlop.netd.main", "--socket", layout.netd_socket, "--standby"),
            listening=layout.netd_socket,
            unit="orlop-netd.service",
            lock=f"{layout.netd_socket}.lock",
        ),
    )


SOCKET_UNIT = "orlop.socket"
