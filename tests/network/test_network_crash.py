# SPDX-License-Identifier: Apache-2.0
"""A dockerd that is killed in the middle of anything: the next one finds its way, and nothing is left over."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import network_churn
from support.networks import Host, command, echo, run, serving

pytestmark = pytest.mark.root


def kill_while_churning(directory: Path, seconds: float, *how: str) -> None:
    """Let a process connect and release, and kill it after a while."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    argv = [sys.executable, network_churn.__file__, str(directory), *how]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout and process.stdout.readline() == b"going\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("seconds", [0.02 + number * 0.0017 for number in range(8)])
async def test_killed_in_the_middle(netns: None, tmp_path: Path, seconds: float) -> None:
    kill_while_churning(tmp_path, seconds)
    host = Host(tmp_path)
    await host.service.start()
    endpoints = host.service._store.endpoints()
    try:
        assert endpoints and all(endpoint.ready for endpoint in endpoints)
        assert host.pins() == sorted(os.path.basename(endpoint.netns) for endpoint in endpoints)
        veths = {name for _, name in socket.if_nameindex() if name.startswith("veth")}
        assert veths == {endpoint.veth for endpoint in endpoints}
        assert set(await host.netd.held()) == {endpoint.container_id for endpoint in endpoints}
        table = command("nft", "list", "table", "ip", "orlop")
        redirected = set(re.findall(r"tcp \. (\d+) : ([0-9.]+) \. 80", table))
        assert redirected == {(str(port.host_port), port.address) for each in endpoints for port in each.ports}
        living = endpoints[-1]
        with serving(living.netns, 80):
            assert echo("127.0.0.1", living.ports[0].host_port) == b"hello"
    finally:
        await host.close([endpoint.container_id for endpoint in endpoints])
    assert host.pins() == []


@pytest.mark.parametrize("seconds", [0.02 + number * 0.017 for number in range(10)])
async def test_killed_while_containers_roam(netns: None, tmp_path: Path, seconds: float) -> None:
    kill_while_churning(tmp_path, seconds, "roam")
    host = Host(tmp_path)
    await host.service.start()
    endpoints = host.service._store.endpoints()
    containers = {endpoint.container_id for endpoint in endpoints}
    try:
        assert all(endpoint.ready for endpoint in endpoints)
        assert host.pins() == sorted({os.path.basename(endpoint.netns) for endpoint in endpoints})
        interfaces = {name for _, name in socket.if_nameindex()}
        assert {each for each in interfaces if each.startswith("veth")} == {each.veth for each in endpoints}
        networks = [each for each in host.service.list_networks() if each["Driver"] == "bridge"]
        bridges = {f"br-{each['Id'][:12]}" for each in networks if each["Name"] != "bridge"}
        assert {each for each in interfaces if each.startswith("br-")} == bridges
        assert set(command("nft", "list", "set", "ip", "orlop", "bridges").split('"')[1::2]) == bridges | {
            "orlop0"
        }
        owners, named = await host.netd.resolving()
        assert set(owners) == containers and set(named) == {each.id for each in endpoints}
        for endpoint in endpoints:
            routes = run(endpoint.netns, "ip", "route").stdout
            assert routes.count("default") == 1
            network = next(each["Name"] for each in networks if each["Id"] == endpoint.network_id)
            name = f"{endpoint.container_id}.{network}"
            answer = run(endpoint.netns, "busybox", "nslookup", "-type=a", name, "127.0.0.11")
            assert endpoint.address in answer.stdout
        for endpoint in (each for each in endpoints if each.ports):
            with serving(endpoint.netns, 80):
                assert echo("127.0.0.1", endpoint.ports[0].host_port) == b"hello"
    finally:
        await host.close(sorted(containers))
    assert host.pins() == []
