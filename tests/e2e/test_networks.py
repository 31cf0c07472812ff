# SPDX-License-Identifier: Apache-2.0
"""Networks of users end to end, by both command lines."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.e2e import Cli, Stack

pytestmark = pytest.mark.root


@pytest.fixture
def net(cli: Cli) -> Iterator[Cli]:
    """The command line; containers and networks of the test are gone afterwards."""
    yield cli
    ids = cli("ps", "-aq").stdout.split()
    if ids:
        ok(cli("rm", "-f", *ids))
    ok(cli("network", "prune", "-f"))
    assert names(cli) == ["bridge", "host", "none"]


def ok(result: Any) -> str:
    assert result.returncode == 0, result.stderr or result.stdout
    return str(result.stdout).strip()


def names(cli: Cli, *filters: str) -> list[str]:
    words = [word for each in filters for word in ("--filter", each)]
    return ok(cli("network", "ls", "--format", "{{.Name}}", *words)).split()


def start(cli: Cli, name: str, *flags: str) -> None:
    """A container that waits. Its upstream server refuses at once, so that unknown names take no time."""
    ok(cli("run", "-d", "--name", name, "--dns", "127.0.0.1", *flags, "busybox", "sleep", "600"))


def resolve(cli: Cli, container: str, name: str, kind: str = "a") -> list[str]:
    """The addresses that a container finds behind a name."""
    out = cli("exec", container, "nslookup", f"-type={kind}", name).stdout
    return sorted(
        line.split()[-1] for line in out.splitlines() if line.startswith("Address:") and ":53" not in line
    )


def reaches(cli: Cli, container: str, target: str) -> bool:
    return cli("exec", container, "ping", "-c1", "-W1", target).returncode == 0


def fetch(cli: Cli, container: str, host: str, port: str) -> str:
    """What an HTTP server says to a container."""
    script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 2 nc {host} {port}"
    return cli("exec", container, "sh", "-c", script).stdout


def address(cli: Cli, container: str, network: str) -> str:
    return ok(cli("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', container))


def test_names_within_and_not_across(net: Cli) -> None:
    ok(net("network", "create", "front"))
    ok(net("network", "create", "--internal", "--subnet", "10.91.0.0/24", "back"))
    start(net, "web", "--network", "front", "--network-alias", "www")
    start(net, "db", "--network", "back")
    start(net, "app", "--network", "name=front,alias=api", "--network", "name=back,ip=10.91.0.77")
    assert "nameserver 127.0.0.11\n" in net("exec", "web", "cat", "/etc/resolv.conf").stdout
    assert "options ndots:0" in net("exec", "web", "cat", "/etc/resolv.conf").stdout
    for name in ("web", "www", "WEB", "web.front"):
        assert resolve(net, "app", name) == [address(net, "web", "front")], name
    assert resolve(net, "db", "app") == ["10.91.0.77"] and resolve(net, "web", "api") == [
        address(net, "app", "front")
    ]
    assert resolve(net, "web", "db") == [] and resolve(net, "db", "web") == []
    assert "app.back" in net("exec", "db", "nslookup", "10.91.0.77").stdout
    assert reaches(net, "web", "app") and reaches(net, "db", "app")
    assert not reaches(net, "web", address(net, "db", "back")) and not reaches(
        net, "db", address(net, "web", "front")
    )
    assert "default" not in net("exec", "db", "ip", "route").stdout
    assert "default via 172.18.0.1 dev eth0" in net("exec", "app", "ip", "route").stdout


def test_one_alias_of_several_containers(net: Cli) -> None:
    ok(net("network", "create", "front"))
    start(net, "client", "--network", "front")
    for number in (1, 2):
        start(net, f"web{number}", "--network", "front", "--network-alias", "web")
    both = sorted(address(net, f"web{number}", "front") for number in (1, 2))
    assert resolve(net, "client", "web") == both
    ok(net("rm", "-f", "web1"))
    assert resolve(net, "client", "web") == [address(net, "web2", "front")]
    ok(net("rename", "web2", "other"))
    assert resolve(net, "client", "other") == [address(net, "other", "front")]


def test_connect_and_disconnect_while_running(net: Cli) -> None:
    ok(net("network", "create", "front"))
    start(net, "web", "--network", "front")
    start(net, "solo")
    assert resolve(net, "web", "solo") == []
    ok(net("network", "connect", "--alias", "lone", "--ip", "172.18.0.99", "front", "solo"))
    again = net("network", "connect", "front", "solo")
    assert "endpoint with name solo already exists in network front" in again.stderr
    assert resolve(net, "web", "lone") == ["172.18.0.99"] and reaches(net, "solo", "web")
    assert "172.18.0.99" in net("exec", "solo", "cat", "/etc/hosts").stdout
    ok(net("network", "disconnect", "bridge", "solo"))  # the default route moves
    assert "default via 172.18.0.1 dev eth1" in net("exec", "solo", "ip", "route").stdout
    ok(net("network", "disconnect", "front", "solo"))
    assert net("exec", "solo", "ip", "route").stdout == ""
    assert resolve(net, "web", "lone") == []
    assert json.loads(ok(net("inspect", "-f", "{{json .NetworkSettings.Networks}}", "solo"))) == {}
    ok(net("network", "connect", "front", "solo"))  # out of no network at all
    assert reaches(net, "solo", "web")
    ok(net("restart", "-t0", "solo"))
    assert resolve(net, "web", "solo") == [address(net, "solo", "front")]
    refused = net("network", "disconnect", "bridge", "solo")
    assert refused.returncode == 1 and "is not connected to network bridge" in refused.stderr


def test_connect_a_stopped_container(net: Cli) -> None:
    ok(net("network", "create", "front"))
    ok(net("create", "--name", "late", "--dns", "127.0.0.1", "busybox", "sleep", "600"))
    ok(net("network", "connect", "--alias", "later", "front", "late"))
    start(net, "web", "--network", "front")
    assert resolve(net, "web", "later") == []
    ok(net("start", "late"))
    assert resolve(net, "web", "later") == [address(net, "late", "front")]
    ok(net("stop", "-t0", "late"))
    ok(net("network", "disconnect", "bridge", "late"))
    ok(net("start", "late"))
    assert net("exec", "late", "ip", "-o", "-4", "addr").stdout.count("inet ") == 2  # lo and eth0


def test_errors_in_dockers_words(net: Cli) -> None:
    ok(net("network", "create", "front", "--subnet", "10.92.0.0/24"))
    start(net, "web", "--network", "front")
    for words, message in (
        (("network", "create", "front"), "network with name front already exists"),
        (("network", "create", "--subnet", "10.92.0.0/16", "x"), "Pool overlaps with other one"),
        (("network", "create", "--subnet", "10.93.0.1/24", "x"), "invalid subnet 10.93.0.1/24: it should be"),
        (("network", "create", "-d", "nope", "x"), 'plugin "nope" not found'),
        (("network", "create", "bridge"), "operation is not permitted on predefined bridge network"),
        (("network", "create", "--gateway", "10.93.0.1", "x"), "must have a corresponding subnet"),
        (("network", "rm", "front"), "error while removing network: network front has active endpoints"),
        (("network", "rm", "bridge"), "bridge is a pre-defined network and cannot be removed"),
        (("network", "rm", "nope"), "network nope not found"),
        (("network", "connect", "nope", "web"), "network nope not found"),
        (("network", "connect", "front", "nope"), "No such container: nope"),
        (("network", "disconnect", "bridge", "web"), "is not connected to network bridge"),
        (("run", "--rm", "--network", "nope", "busybox", "true"), "network nope not found"),
        (("run", "--rm", "--network", "front", "--ip", "10.9.9.9", "busybox", "true"),
         "no configured subnet contains IP address 10.9.9.9"),
        (("run", "--rm", "--network", "front", "--ip", address(net, "web", "front"), "busybox", "true"),
         "Address already in use"),
    ):  # fmt: skip
        result = net(*words)
        assert result.returncode != 0 and message in result.stderr, (words, result.stderr)
    assert names(net) == ["bridge", "front", "host", "none"]
    ok(net("network", "rm", "-f", "nope"))


def test_filters_and_prune(net: Cli) -> None:
    ok(net("network", "create", "--label", "tier=web", "used"))
    ok(net("network", "create", "--label", "tier=db", "spare"))
    start(net, "web", "--network", "used")
    assert names(net, "label=tier=web") == ["used"] and names(net, "label=tier") == ["spare", "used"]
    assert names(net, "type=custom", "name=spa") == ["spare"] and names(net, "driver=host") == ["host"]
    assert names(net, "dangling=true") == ["spare"]
    assert names(net, "dangling=false") == ["bridge", "host", "none", "used"]
    used = ok(net("network", "inspect", "-f", "{{.Id}}", "used"))
    assert names(net, f"id={used[:6]}") == ["used"]
    assert ok(net("network", "prune", "-f")) == "Deleted Networks:\nspare"
    assert names(net, "type=custom") == ["used"]


def test_published_port_on_a_users_network(net: Cli, stack: Stack) -> None:
    port = str(stack.free_port())
    ok(net("network", "create", "zone"))
    ok(net("run", "-d", "--name", "web", "--network", "zone", "-p", f"{port}:80", "busybox", "sh", "-c",
           "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp"))  # fmt: skip
    assert stack.http_get(f"http://127.0.0.1:{port}/") == "served\n"
    start(net, "other")  # on another bridge: by the host's address only
    web = address(net, "web", "zone")
    assert not fetch(net, "other", web, "80") and "served" in fetch(net, "web", web, "80")
    assert "served" in fetch(net, "other", "172.17.0.1", port)
    ok(net("network", "connect", "bridge", "web"))  # by its name it comes first: the port moves there
    assert stack.http_get(f"http://127.0.0.1:{port}/") == "served\n"
    ok(net("network", "disconnect", "zone", "web"))
    assert stack.http_get(f"http://127.0.0.1:{port}/") == "served\n"
    assert ok(net("port", "web", "80")).splitlines()[0] == f"0.0.0.0:{port}"


def test_names_answer_while_dockerd_is_dead(net: Cli, stack: Stack) -> None:
    ok(net("network", "create", "front"))
    start(net, "web", "--network", "front")
    start(net, "client", "--network", "front")
    pid = ok(net("inspect", "-f", "{{.State.Pid}}", "client"))
    web = address(net, "web", "front")
    dockerd = stack.pid("dockerd")
    os.kill(dockerd, signal.SIGSTOP)  # as dead as can be, and not restarted meanwhile
    try:
        query = ["nsenter", "--target", pid, "--net", "busybox", "nslookup", "web", "127.0.0.11"]
        assert web in run(query)
    finally:
        os.kill(dockerd, signal.SIGKILL)
    assert web in run(query)
    deadline = time.monotonic() + 30
    while net("network", "ls").returncode != 0:
        assert time.monotonic() < deadline
    assert resolve(net, "client", "web") == [web]
    start(net, "late", "--network", "front")
    assert resolve(net, "client", "late") == [address(net, "late", "front")]
    stack.kill("netd")  # and the other way round
    while not resolve(net, "client", "late"):
        assert time.monotonic() < deadline


def test_both_families(net: Cli, stack: Stack) -> None:
    ok(net("network", "create", "--ipv6", "--subnet", "2001:db8:7::/64", "--subnet", "10.94.0.0/24", "--gateway",
           "2001:db8:7::ff", "dual"))  # fmt: skip
    port = str(stack.free_port())
    ok(net("run", "-d", "--name", "web", "--network", "dual", "--ip6", "2001:db8:7::9", "-p", f"{port}:80",
           "busybox", "sh", "-c", "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp"))  # fmt: skip
    start(net, "client", "--network", "dual")
    assert resolve(net, "client", "web", "aaaa") == ["2001:db8:7::9"]
    assert reaches(net, "client", "2001:db8:7::9")
    assert "default via 2001:db8:7::ff dev eth0" in net("exec", "client", "ip", "-6", "route").stdout
    assert stack.http_get(f"http://[::1]:{port}/") == "served\n"
    shown = json.loads(ok(net("network", "inspect", "dual")))[0]
    assert shown["EnableIPv6"] and len(shown["IPAM"]["Config"]) == 2
    assert "2001:db8:7::9/64" in [each["IPv6Address"] for each in shown["Containers"].values()]


def test_events(net: Cli, stack: Stack) -> None:
    begin = str(time.time())
    ok(net("network", "create", "front"))
    start(net, "solo")
    ok(net("network", "connect", "front", "solo"))
    ok(net("network", "disconnect", "front", "solo"))
    ok(net("network", "rm", "front"))
    out = ok(net("events", "--since", begin, "--until", str(time.time()), "--filter", "network=front",
                 "--format", "{{.Action}}"))  # fmt: skip
    assert out.split() == ["create", "connect", "disconnect", "destroy"]


def run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout


def test_the_api_is_not_reached_from_containers(net: Cli, stack: Stack) -> None:
    """No TCP, no abstract sockets: a container of the host's network sees the same as everybody."""
    ok(net("run", "-d", "--name", "near", "--network", "host", "busybox", "sleep", "1000"))
    ok(net("run", "-d", "--name", "far", "-p", f"{stack.free_port()}:80", "busybox", "sleep", "1000"))
    listening = subprocess.run(["ss", "-Hlntu"], capture_output=True, text=True, check=True).stdout
    (published,) = ok(net("port", "far", "80/tcp")).splitlines()[:1]
    assert {line.split()[4].rpartition(":")[2] for line in listening.splitlines()} == {
        published.rpartition(":")[2]
    }
    sockets = ok(net("exec", "near", "cat", "/proc/net/unix")).splitlines()[1:]
    names_ = [words[7] for words in (line.split() for line in sockets) if len(words) > 7]
    assert any(name.endswith("docker.sock") for name in names_)  # it is seen, and its path leads nowhere
    assert [name for name in names_ if name.startswith("@")] == []
    for name in names_:
        assert net("exec", "near", "test", "-e", name).returncode == 1, name
