# SPDX-License-Identifier: Apache-2.0
"""Takes away what networks leave on the host after the daemons: bridges, firewall rules, pinned namespaces.

`python -m orlop.dockerd.network.host_removal DATABASE NETNS_DIRECTORY [--dry-run]` is what `orlop daemon clean`
runs; it prints a line for each thing.
"""

import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from functools import partial

from orlop.dockerd.network import drivers, firewalld, foreign, hostlinks, legacy, netns
from orlop.dockerd.network.firewall import Firewall
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.store import NetworkStore
from orlop.dockerd.network.types import Network, NetworkConfig
from orlop.errdefs import OrlopError
from orlop.unix.nftables import NftablesError

Removal = tuple[str, Callable[[], object]]
"""What there is, in words, and what takes it away."""


def found(kernel: Kernel, networks: list[Network], pins: str) -> Iterator[Removal]:
    """What there is of networks' interfaces, of rules for them, and of namespaces pinned below `pins`."""
    default = NetworkConfig().bridge
    names = [name for network in networks for name in drivers.of(network).take_down(network, ())]
    for name in dict.fromkeys([default, *names]):
        link = hostlinks.find(kernel, name)
        if link is not None and (name != default or link.kind == "bridge"):
            kind = "bridge" if link.kind == "bridge" else "interface"
            yield f"{kind} {name}", partial(_remove_link, kernel, name)
    for family, table in _tables(networks):
        if _has_table(kernel, family, table):
            yield f"nftables table {family} {table}", partial(kernel.nft.run, f"delete table {family} {table}")
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(pins)):
            yield f"network namespace {name}", partial(netns.remove, f"{pins}/{name}")


def networks_in(database: str) -> list[Network]:
    """The networks that dockerd has made, by its database; none if there is no database."""
    if not os.path.exists(database):
        return []
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return NetworkStore(connection).networks()


def _tables(networks: list[Network]) -> Iterator[tuple[str, str]]:
    default = NetworkConfig().bridge
    bridges = [network.bridge for network in networks if network.driver == "bridge" and network.predefined]
    for name in dict.fromkeys([default, *bridges]):
        plan = Firewall(table="orlop" if name == default else f"orlop_{name}", userland_proxy=False)
        yield from (("ip", plan.table), ("ip6", plan.table), ("bridge", plan.table), ("bridge", plan.links_table))
        yield "inet", plan.user_table
    for network in networks:
        rules = drivers.of(network).rules(network)
        for guard in rules.guards if rules else ():
            yield from (("netdev", guard.table), ("inet", guard.table))


def _remove_link(kernel: Kernel, name: str) -> None:
    if _has_table(kernel, "inet", "firewalld"):
        with contextlib.suppress(OrlopError):  # it cannot be asked, and so has not been
            firewalld.dismiss(name)
    for chain in (*foreign.IPTABLES, *foreign.FIREWALLD):
        with contextlib.suppress(NftablesError):  # there is no such chain
            if commands := foreign.withdraw(chain, name, kernel.nft.run_with_handles(chain.listing)):
                kernel.nft.run(commands)
    legacy.forget(name)
    hostlinks.delete(kernel, name)


def _has_table(kernel: Kernel, family: str, table: str) -> bool:
    try:
        kernel.nft.run(f"list table {family} {table}")
    except NftablesError:
        return False
    return True


def main() -> int:
    """Print and, without --dry-run, remove what there is."""
    database, pins, *rest = sys.argv[1:]
    kernel = Kernel()
    try:
        for text, remove in found(kernel, networks_in(database), pins):
            if not rest:
                remove()
            sys.stdout.write(f"{text}\n")
    finally:
        kernel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
