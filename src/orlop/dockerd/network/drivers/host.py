# SPDX-License-Identifier: Apache-2.0
"""The host's own network."""

from orlop.dockerd.network.drivers.base import Driver


class HostDriver(Driver):
    """Its containers share the host's namespace."""

    name = "host"
    creatable = False
    own_namespace = False
