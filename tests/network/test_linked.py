# SPDX-License-Identifier: Apache-2.0
"""`--link` on a bridge whose containers are kept apart (icc off)."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.networks import Host, ask_udp, command, echo, echoing, pings, serving_udp
from support.pace import PACE

pytestmark = pytest.mark.root


@pytest.mark.parametrize("bridged_meets_ip", ["0", "1"])
async def test_links_open_exposed_ports_where_icc_is_off(
    netns: None, tmp_path: Path, bridged_meets_ip: str
) -> None:
    """As in Docker: the linked container's exposed ports, in that direction, and nothing else; whether what is
    bridged meets the rules of ip (br_netfilter) or not."""
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if setting.exists():
        setting.write_text(bridged_meets_ip)
    machine = Host(tmp_path, icc=False, bip="172.17.0.1/24", fixed_cidr6="fd00:17::/64", ipv6=True)
    await machine.service.start()
    exposed = ["80/tcp", "53/udp"]
    try:
        web = await machine.connect("web", exposed_ports=exposed)
        asking = await machine.connect("asking", linked=["web", "gone"])
        other = await machine.connect("other", exposed_ports=["80/tcp"])
        again = await machine.connect("again", linked=["other"])
        spaces = [each.netns_path or "" for each in (web, asking, other, again)]
        there, here, strange, fourth = spaces
        of = {name: sandbox.endpoints["bridge"] for name, sandbox in (("web", web), ("asking", asking))}
        with echoing(there, 80, 81), echoing(here, 80), echoing(strange, 80), serving_udp(there, 53):
            assert echo(of["web"].ip_address, 80, netns=here) == b"hello"
            assert echo(of["web"].global_ipv6_address, 80, netns=here) == b"hello"
            assert ask_udp(here, of["web"].ip_address, 53) == "question!"
            assert echo(other.endpoints["bridge"].ip_address, 80, netns=fourth) == b"hello"
            # another port, the other direction, a container without links, another container's links
            closed = (
                (of["web"].ip_address, 81, here),
                (of["asking"].ip_address, 80, there),
                (of["web"].ip_address, 80, strange),
                (of["asking"].ip_address, 80, strange),
                (of["web"].ip_address, 80, fourth),
                (other.endpoints["bridge"].ip_address, 80, here),
                (of["asking"].ip_address, 80, fourth),
            )
            with ThreadPoolExecutor(len(closed)) as pool:  # each takes its time to give up
                answers = pool.map(lambda each: echo(each[0], each[1], netns=each[2]), closed)
                assert [each for each, answer in zip(closed, answers, strict=True) if answer] == []
            assert pings(here, "172.17.0.1") and not pings(here, of["web"].ip_address)
            await machine.restart()
            assert echo(of["web"].ip_address, 80, netns=here) == b"hello"
            command("nft", "delete", "table", "bridge", "orlop_links")
            async with asyncio.timeout(30 * PACE):
                while "orlop_links" not in command("nft", "list", "tables"):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.02)
            assert echo(of["web"].ip_address, 80, netns=here) == b"hello"
            assert echo(of["web"].ip_address, 80, netns=fourth) == b""
        # the linked container comes back with another address
        await machine.service.release("web")
        assert f". {of['web'].ip_address} ." not in command("nft", "list", "ruleset")
        await machine.connect("between")
        web = await machine.connect("web", exposed_ports=exposed)
        with echoing(web.netns_path or "", 80):
            assert echo(web.endpoints["bridge"].ip_address, 80, netns=here) == b"hello"
        await machine.service.release("asking")
        await machine.service.release("again")
        assert "orlop_links" not in command("nft", "list", "tables")
    finally:
        await machine.close(["web", "asking", "other", "again", "between"])
