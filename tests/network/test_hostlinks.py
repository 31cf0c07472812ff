# SPDX-License-Identifier: Apache-2.0
"""The host's interfaces: found by name, a bridge's ports listed, others' addresses seen."""

import contextlib
import socket
import subprocess

import pytest
from support.networks import fresh_netns

from orlop.dockerd.network import hostlinks
from orlop.dockerd.network.drivers.bridge import BridgeDriver
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.types import Network

pytestmark = pytest.mark.root


def ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def test_single_interfaces_and_ports_are_asked_for() -> None:
    with fresh_netns(), contextlib.closing(Kernel()) as kernel:
        ip("link add b0 type bridge", "link add b1 type bridge", "addr add 192.0.2.1/24 dev b1")
        ip("link add v0 type veth peer name w0", "link set v0 master b0", "link property add dev b0 altname other")
        found = hostlinks.find(kernel, "b0")
        assert found is not None and (found.name, found.kind) == ("b0", "bridge")
        assert [hostlinks.find(kernel, name) for name in ("b", "other", "", "x" * 20)] == [None] * 4
        assert [port.name for port in kernel.route.ports(found.ifindex)] == ["v0"]
        assert kernel.route.ports(socket.if_nametoindex("b1")) == []
        existing, taken = hostlinks.addresses(kernel, "b0", (4, 6))
        assert existing == [] and "192.0.2.0/24" in map(str, taken)


def test_a_restart_gives_known_interfaces_their_bridge_and_deletes_strays() -> None:
    network = Network(id="1" * 64, name="zone", driver="bridge", created="", bridge="b0")
    with fresh_netns(), contextlib.closing(Kernel()) as kernel:
        ip("link add b0 type bridge", "link add b1 type bridge")
        for name in ("vethlost", "vethkept", "vethstray", "vethother"):
            ip(f"link add {name} type veth peer name p{name[4:]}")
        ip("link set vethkept master b0", "link set vethstray master b0", "link set vethother master b1")
        BridgeDriver().tidy(kernel, network, {"vethlost", "vethkept", "vethgone"})
        ports = {port.name for port in kernel.route.ports(socket.if_nametoindex("b0"))}
        assert ports == {"vethlost", "vethkept"}
        assert hostlinks.find(kernel, "vethstray") is None and hostlinks.find(kernel, "vethother") is not None
