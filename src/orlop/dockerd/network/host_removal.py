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

from orlop.dockerd.network import firewall, hostlinks, netns
from orlop.dockerd.network.firewall import Firewall
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.store import NetworkStore
from orlop.dockerd.network.types import NetworkConfig
from orlop.unix.nftables import NftablesError

Removal = tuple[str, Callable[[], object]]
"""What there is, in words, and what takes it away."""


def found(kernel: Kernel, bridges: list[str], pins: str) -> Iterator[Removal]:
    """What there is of bridges, of rules for them, and of namespaces pinned below the directory `pins`."""
    default = NetworkConfig().bridge
    for name in dict.fromkeys([default, *bridges]):
        link = hostlinks.find(kernel, name)
        if link is not None and link.kind == "bridge":
            yield f"bridge {name}", partial(_remove_bridge, kernel, name)
        plan = Firewall(table="orlop" if name == default else f"orlop_{name}", userland_proxy=False)
        for version, family in ((4, "ip"), (6, "ip6")):
            if _has_table(kernel, family, plan.table):
                yield f"nftables table {family} {plan.table}", partial(kernel.nft.run, plan.remove(version))
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(pins)):
            yield f"network namespace {name}", partial(netns.remove, f"{pins}/{name}")


def bridges_in(database: str) -> list[str]:
    """The bridges that dockerd has made, by its database; none if there is no database."""
    if not os.path.exists(database):
        return []
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        networks = NetworkStore(connection).networks()
    return [network.bridge for network in networks if network.driver == "bridge" and network.own_bridge]


def _remove_bridge(kernel: Kernel, name: str) -> None:
    with contextlib.suppress(NftablesError):  # no iptables here
        if commands := firewall.foreign_withdraw(kernel.nft.run_with_handles(firewall.FOREIGN_FORWARD), name):
            kernel.nft.run(commands)
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
        for text, remove in found(kernel, bridges_in(database), pins):
            if not rest:
                remove()
            sys.stdout.write(f"{text}\n")
    finally:
        kernel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
