# SPDX-License-Identifier: Apache-2.0
"""Where the files of a container are."""

from pathlib import Path

SHORT = 32
"""Digits of an id in the names of volatile directories."""


class Paths:
    """`data_root` is kept, `exec_root` is gone after a boot."""

    def __init__(self, data_root: str, exec_root: str) -> None:
        self.data_root = Path(data_root)
        self.exec_root = Path(exec_root)

    def data(self, container_id: str) -> Path:
        """The directory with log, hosts, hostname, resolv.conf."""
        return self.data_root / "containers" / container_id

    def volatile(self, container_id: str) -> Path:
        """The directory with sockets and /dev/shm of a run; its name is cut, for a socket's path has 107 bytes."""
        return self.exec_root / "containers" / container_id[:SHORT]

    def log(self, container_id: str) -> str:
        """The json-file log."""
        return str(self.data(container_id) / f"{container_id}-json.log")

    def attach_socket(self, container_id: str) -> str:
        """The attach socket of the init process."""
        return str(self.volatile(container_id) / "attach.sock")

    def exec_socket(self, container_id: str, exec_id: str) -> str:
        """The attach socket of an extra process."""
        return str(self.volatile(container_id) / f"x{exec_id[:16]}")

    def shm(self, container_id: str) -> str:
        """The tmpfs that containers of a shared IPC namespace have at /dev/shm."""
        return str(self.volatile(container_id) / "shm")

    def file(self, container_id: str, name: str) -> str:
        """hostname, hosts or resolv.conf."""
        return str(self.data(container_id) / name)
