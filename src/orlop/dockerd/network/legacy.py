# SPDX-License-Identifier: Apache-2.0
"""Passage through FORWARD of iptables-legacy, whose tables are none of nftables': what they drop stays dropped.

Only where such a table is in our network namespace is its command called; rules that come later are seen at the
next start or when a network is made, for the kernel tells nobody of them.
"""

import logging
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence

from orlop.dockerd.network.firewall import BridgeRules

_log = logging.getLogger(__name__)

_TABLES = {4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names"}
_COMMANDS = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_DOCKER_USER = "DOCKER-USER"
_SECONDS = 10


def let_pass(bridges: Sequence[BridgeRules]) -> None:
    """Let bridges' traffic pass where there are such rules. Blocks."""
    for version in _versions():
        wanted = [bridge.name for bridge in bridges if bridge.of(version) is not None]
        listing = _listing(version) if wanted else []
        for command in (each for name in wanted for each in accept(name, listing)):
            _run(version, command)


def forget(bridge: str) -> None:
    """Undo that for one bridge. Blocks."""
    for version in _versions():
        for command in withdraw(bridge, _listing(version)):
            _run(version, command)


def accept(bridge: str, listing: Sequence[str]) -> Iterator[list[str]]:
    """The commands that let a bridge's traffic pass; none if they are in `listing` (of -S FORWARD) already.

    Docker's own chain for administrators is asked before, as in nftables' FORWARD.
    """
    others = [line for line in listing if line not in _ours(bridge, listing)]
    verdicts = ["ACCEPT", *([_DOCKER_USER] if any(f"-j {_DOCKER_USER}" in line for line in others) else [])]
    if len(_ours(bridge, listing)) == 2 * len(verdicts):
        return
    yield from withdraw(bridge, listing)
    for verdict in verdicts:
        for direction in ("-i", "-o"):
            comment = ["-m", "comment", "--comment", f"orlop {bridge}"]
            yield ["-I", "FORWARD", direction, bridge, *comment, "-j", verdict]


def withdraw(bridge: str, listing: Sequence[str]) -> Iterator[list[str]]:
    """The commands that undo `accept`."""
    for line in _ours(bridge, listing):
        yield ["-D", *shlex.split(line)[1:]]


def _ours(bridge: str, listing: Iterable[str]) -> list[str]:
    return [line for line in listing if f'--comment "orlop {bridge}"' in line]


def _versions() -> Iterator[int]:
    """The families that have a table `filter` of iptables-legacy here."""
    for version, path in _TABLES.items():
        try:
            with open(path, encoding="ascii") as file:
                if "filter" in file.read().split():
                    yield version
        except FileNotFoundError:  # a kernel without them
            continue


def _listing(version: int) -> list[str]:
    return _run(version, ["-S", "FORWARD"]).splitlines()


def _run(version: int, arguments: list[str]) -> str:
    command = [_COMMANDS[version], "-w", "5", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else "no answer"
        _log.warning("rules of iptables-legacy may cut containers off: cannot run %s: %s", command[0], reason)
        return ""
    if result.returncode:
        _log.warning("rules of iptables-legacy may cut containers off: %s", result.stderr.strip())
        return ""
    return result.stdout
