# SPDX-License-Identifier: Apache-2.0
"""The asyncio client of orlop-netd."""


class NetdClient:
    """One connection to orlop-netd, opened at the first request; starts the daemon where it is not running."""

    def __init__(
        self, socket_path: str = "/run/orlop/netd.sock", log_path: str = "/var/log/orlop/netd.log"
    ) -> None:
        self._socket_path = socket_path
        self._log_path = log_path
