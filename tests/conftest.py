# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: the machine's own network devices stay as they are.

The kernel gives a device back, down and without addresses, when the network namespace that it was moved into ends;
the machine is cut off by then. The test that does such a thing is to be known by name.
"""

from collections.abc import Iterator

import pytest

from orlop.dockerd.network.rtnetlink import RouteSocket


@pytest.fixture(scope="session")
def _machine() -> Iterator[RouteSocket]:
    """A socket of the network namespace in which the tests were started, wherever they are by now."""
    socket = RouteSocket()
    yield socket
    socket.close()


@pytest.fixture(autouse=True)
def _devices_of_the_machine_stay(_machine: RouteSocket) -> Iterator[None]:
    before = _devices(_machine)
    yield
    assert _devices(_machine) == before, "the test has changed network devices of the machine itself"


def _devices(socket: RouteSocket) -> dict[int, tuple[str, bool, list[str]]]:
    """Hardware by index: name, whether it is up, addresses. Bridges, veths and their like have a kind."""
    addresses = socket.addresses()
    return {
        link.ifindex: (
            link.name,
            link.up,
            sorted(str(address) for index, address in addresses if index == link.ifindex),
        )
        for link in socket.links()
        if not link.kind
    }
