# SPDX-License-Identifier: Apache-2.0
"""No network: a namespace with a loopback interface."""

from orlop.dockerd.network.drivers.base import Driver


class NullDriver(Driver):
    """Its containers have a namespace of their own, and nothing in it."""

    name = "null"
    creatable = False
