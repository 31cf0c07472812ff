# SPDX-License-Identifier: Apache-2.0
"""Coexistence with other firewalls of the machine, as plans (pure functions).

Where another table drops what is forwarded, ours cannot undo that: an accept is final in its own chain only. So a
bridge gets rules at the head of such a chain, marked as ours by a comment. What passes them our own rules judge.
"""

from collections.abc import Iterator
from typing import NamedTuple

from orlop.dockerd.network.firewall import BridgeRules

_DOCKER_USER = "jump DOCKER-USER"


class Chain(NamedTuple):
    """A chain of somebody else; `directions` are what a bridge's interface is matched with in it; `family` is 4 or
    6 if it sees that one alone."""

    place: str
    family: int = 0
    directions: tuple[str, ...] = ("iifname", "oifname")

    @property
    def table(self) -> str:
        """The name of its table."""
        return self.place.split()[1]

    @property
    def listing(self) -> str:
        """The command that prints it."""
        return f"list chain {self.place}"


IPTABLES = (Chain("ip filter FORWARD", 4), Chain("ip6 filter FORWARD", 6))
"""iptables' and ip6tables': docker.io's dockerd and ufw use these."""

FIREWALLD = (
    Chain("inet firewalld filter_FORWARD"),
    Chain("inet firewalld filter_INPUT", directions=("iifname",)),
)
"""firewalld's. Where it can be asked (see the module `firewalld`) these are left to it."""

TABLES = frozenset(chain.table for chain in (*IPTABLES, *FIREWALLD))


def accept(chain: Chain, bridge: BridgeRules, listing: str) -> str:
    """The commands that let a bridge's traffic pass; empty if they are in `listing` (of `nft -a`) already.

    Docker's own chain for administrators, DOCKER-USER, is asked before: what it drops stays dropped.
    """
    if chain.family and bridge.of(chain.family) is None:
        return ""
    ours = _ours(listing, bridge.name)
    wanted = ["accept"]
    if any(_DOCKER_USER in line and 'comment "orlop ' not in line for line in listing.splitlines()):
        wanted.append(_DOCKER_USER)
    if len(ours) == len(wanted) * len(chain.directions):
        return ""
    rules = [
        f'insert rule {chain.place} {direction} "{bridge.name}" counter {verdict} comment "orlop {bridge.name}"\n'
        for verdict in wanted
        for direction in chain.directions
    ]
    return withdraw(chain, bridge.name, listing) + "".join(rules)


def withdraw(chain: Chain, bridge: str, listing: str) -> str:
    """The commands that undo `accept`; `listing` has the rules with their handles (nft -a)."""
    handles = (line.rpartition("# handle ")[2] for line in _ours(listing, bridge))
    return "".join(f"delete rule {chain.place} handle {handle}\n" for handle in handles)


def _ours(listing: str, bridge: str) -> list[str]:
    return list(_marked(listing, f'comment "orlop {bridge}"'))


def _marked(listing: str, comment: str) -> Iterator[str]:
    return (line for line in listing.splitlines() if comment in line)
