# SPDX-License-Identifier: Apache-2.0
"""Where the daemons keep their sockets, state and logs."""

import os
from collections.abc import Mapping
from typing import NamedTuple

DEFAULT_RUN_DIR = "/run/orlop"
DEFAULT_DATA_ROOT = "/var/lib/orlop"
DEFAULT_LOG_DIR = "/var/log/orlop"


class Layout(NamedTuple):
    """The three directories that everything else follows from."""

    run_dir: str = DEFAULT_RUN_DIR
    data_root: str = DEFAULT_DATA_ROOT
    log_dir: str = DEFAULT_LOG_DIR

    @property
    def is_default(self) -> bool:
        """Whether this is the machine's own installation, which a service manager may look after."""
        return self == Layout()

    @property
    def api_socket(self) -> str:
        """The Engine API's socket."""
        return os.path.join(self.run_dir, "docker.sock")

    @property
    def containerd_socket(self) -> str:
        """containerd's gRPC socket."""
        return os.path.join(self.run_dir, "containerd", "containerd.sock")

    @property
    def netd_socket(self) -> str:
        """orlop-netd's socket."""
        return os.path.join(self.run_dir, "netd.sock")

    @property
    def daemon_dir(self) -> str:
        """What the supervisor owns."""
        return os.path.join(self.run_dir, "daemon")

    @property
    def control_socket(self) -> str:
        """The supervisor's own socket."""
        return os.path.join(self.daemon_dir, "control.sock")

    def log(self, component: str) -> str:
        """A daemon's log file."""
        return os.path.join(self.log_dir, f"{component}.log")


def resolve(run_dir: str, data_root: str, log_dir: str, environ: Mapping[str, str]) -> Layout:
    """The layout from flags, else ORLOP_RUN_DIR, ORLOP_DATA_ROOT and ORLOP_LOG_DIR, else the defaults.

    With a run directory of one's own and no log directory the logs are in the run directory's `log`.
    """
    run_dir = run_dir or environ.get("ORLOP_RUN_DIR", "") or DEFAULT_RUN_DIR
    data_root = data_root or environ.get("ORLOP_DATA_ROOT", "") or DEFAULT_DATA_ROOT
    own_log = DEFAULT_LOG_DIR if run_dir == DEFAULT_RUN_DIR else os.path.join(run_dir, "log")
    log_dir = log_dir or environ.get("ORLOP_LOG_DIR", "") or own_log
    return Layout(os.path.abspath(run_dir), os.path.abspath(data_root), os.path.abspath(log_dir))
