# SPDX-License-Identifier: Apache-2.0
"""Kinds of networks and their options end to end, by both command lines."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.e2e import Cli, Stack
from support.networks import ip

pytestmark = pytest.mark.root


@pytest.fixture
def net(cli: Cli) -> Iterator[Cli]:
    """The command line; containers and networks of the test are gone afterwards."""
    before = {name for _, name in socket.if_nameindex() if not name.startswith("veth")}
    yield cli
    ids = cli("ps", "-aq").stdout.split()
    if ids:
        ok(cli("rm", "-f", *ids))
    ok(cli("network", "prune", "-f"))
    ok(cli("network", "prune", "-f"))  # a configuration goes after those that were made from it
    ok(cli("network", "create", "last"))  # waits until the kernel has freed what was removed
    ok(cli("network", "rm", "last"))
    assert before >= {name for _, name in socket.if_nameindex() if not name.startswith(("veth", "br-"))}


def ok(result: Any) -> str:
    assert result.returncode == 0, result.stderr or result.stdout
    return str(result.stdout).strip()


def test_macvlan(net: Cli) -> None:
    ip("link add p0 up type veth peer name p1")
    ip("link set p1 up")
    try:
        ok(net("network", "create", "-d", "macvlan", "--subnet", "10.95.0.0/24", "--gateway", "10.95.0.1",
               "-o", "parent=p0", "lan"))  # fmt: skip
        ok(net("run", "-d", "--name", "one", "--network", "lan", "busybox", "sleep", "600"))
        ok(net("run", "-d", "--name", "two", "--network", "lan", "busybox", "sleep", "600"))
        assert "default via 10.95.0.1 dev eth0" in net("exec", "one", "ip", "route").stdout
        ok(net("exec", "one", "ping", "-c1", "-W2", "two"))
        shown = json.loads(ok(net("network", "inspect", "lan")))[0]
        assert (shown["Driver"], shown["Options"]) == ("macvlan", {"parent": "p0"})
        assert ok(net("network", "ls", "-q", "--filter", "driver=macvlan", "--no-trunc")) == shown["Id"]
        refused = net("network", "create", "-d", "macvlan", "-o", "parant=p0", "x")
        assert 'unknown option "parant" of network driver macvlan: did you mean "parent"?' in refused.stderr
        ok(net("rm", "-f", "one", "two"))
        ok(net("network", "rm", "lan"))
    finally:
        ip("link del p0")


def test_configuration_and_endpoint_options(net: Cli) -> None:
    ok(net("network", "create", "--config-only", "--subnet", "10.96.0.0/24", "--label", "tier=db", "paper"))
    ok(net("network", "create", "--config-from", "paper", "front"))
    shown = json.loads(ok(net("network", "inspect", "front")))[0]
    assert shown["IPAM"]["Config"][0]["Subnet"] == "10.96.0.0/24" and shown["Labels"] == {"tier": "db"}
    wishes = (
        "name=front,alias=a,alias=b,ip=10.96.0.7,link-local-ip=169.254.9.9,"
        "driver-opt=com.docker.network.endpoint.ifname=wan0,"
        "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1"
    )
    ok(net("run", "-d", "--name", "one", "--network", wishes, "busybox", "sleep", "600"))
    there = net("exec", "one", "ip", "-4", "addr", "show", "wan0").stdout
    assert "10.96.0.7/24" in there and "169.254.9.9/16" in there
    assert net("exec", "one", "cat", "/proc/sys/net/ipv4/conf/wan0/log_martians").stdout == "1\n"
    ok(net("run", "-d", "--name", "two", "busybox", "sleep", "600"))
    ok(net("network", "connect", "--alias", "x", "--alias", "y", "--gw-priority", "9", "front", "two"))
    assert "default via 10.96.0.1 dev eth1" in net("exec", "two", "ip", "route").stdout
    for name in ("x", "y", "two"):
        assert "10.96.0.2" in net("exec", "one", "nslookup", "-type=a", name).stdout
    settings = json.loads(ok(net("inspect", "-f", "{{json .NetworkSettings.Networks.front}}", "one")))
    assert settings["IPAMConfig"]["LinkLocalIPs"] == ["169.254.9.9"]
    ok(net("restart", "-t0", "one"))  # all of that is asked for again
    assert "10.96.0.7/24" in net("exec", "one", "ip", "-4", "addr", "show", "wan0").stdout


def test_only_ipv6_and_routed(net: Cli, stack: Stack) -> None:
    port = str(stack.free_port())
    mode = "com.docker.network.bridge.gateway_mode_ipv6=routed"
    ok(net("network", "create", "--ipv6", "--ipv4=false", "--subnet", "2001:db8:77::/64", "-o", mode, "six"))
    ok(net("run", "-d", "--name", "web", "--network", "six", "-p", f"{port}:80", "busybox", "sh", "-c",
           "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp"))  # fmt: skip
    ports = json.loads(ok(net("inspect", "-f", "{{json .NetworkSettings.Ports}}", "web")))
    assert ports == {"80/tcp": [{"HostIp": "::", "HostPort": ""}]}
    assert stack.http_get("http://[2001:db8:77::2]/") == "served\n"
    shown = json.loads(ok(net("network", "inspect", "six")))[0]
    assert not shown["EnableIPv4"] and shown["Containers"]


def test_forced_disconnect(net: Cli) -> None:
    ok(net("network", "create", "front"))
    gone = net("network", "disconnect", "--force", "front", "nobody")
    assert gone.returncode == 1 and "endpoint nobody not found in network front" in gone.stderr
    plain = net("network", "disconnect", "front", "nobody")
    assert plain.returncode == 1 and "No such container: nobody" in plain.stderr


def test_refused_networks_leave_nothing(net: Cli) -> None:
    before = ok(net("network", "ls", "-q"))
    for words, message in (
        (("-d", "macvlan", "-o", "parent=nope0"), "-o parent interface was not found on the host: nope0"),
        (("-d", "ipvlan", "-o", "ipvlan_mode=l4"), "one of l2, l3, l3s is expected"),
        (("-d", "overlay"), "This node is not a swarm manager"),
        (("-d", "weave"), 'plugin "weave" not found'),
        (("--ipam-driver", "infoblox"), 'plugin "infoblox" not found'),
        (("-o", "com.docker.network.bridge.gateway_mode_ipv4=rooted"), "unknown gateway mode"),
        (
            ("-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated"),
            "can only be used for an internal network",
        ),
        (("--ipv4=false",), "IPv4 or IPv6 must be enabled"),
        (("--config-from", "nope"), 'configuration network "nope" not found'),
    ):
        result = net("network", "create", *words, "x")
        assert result.returncode == 1 and message in result.stderr, (words, result.stderr)
    assert ok(net("network", "ls", "-q")) == before
