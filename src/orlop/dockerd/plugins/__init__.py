# SPDX-License-Identifier: Apache-2.0
"""Docker's plugins of the first kind: programs that serve HTTP on a socket where the daemon looks for it."""

from orlop.dockerd.plugins.calls import Plugins

__all__ = ["Plugins"]
