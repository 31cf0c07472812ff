# SPDX-License-Identifier: Apache-2.0
"""Who is called what in which network: the tables that resolvers answer from, and what each of them may see."""

import random
from ipaddress import ip_address
from typing import NamedTuple


class Entry(NamedTuple):
    """An endpoint's names in its network, the first of them the container's own, and its addresses as text."""

    network: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]


class Member(NamedTuple):
    """A network that a container is in: its id, its name, and what the container itself calls others in it."""

    id: str
    name: str
    aliases: dict[str, str] = {}


class Upstream(NamedTuple):
    """A server that other names are asked of, from the host's network namespace or the container's."""

    address: str
    from_host: bool = False


class View(NamedTuple):
    """What a container's resolver knows.

    `forward` off: nothing leaves through the host's namespace. `qualified`: names without a dot stay here.
    """

    networks: tuple[Member, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    forward: bool = True
    qualified: bool = False


class Names:
    """Entries by endpoint. A name that several endpoints of a network have stands for all their addresses."""

    def __init__(self) -> None:
        self.changes = 0
        """Grows with every change."""
        self._entries: dict[str, Entry] = {}
        self._by_name: dict[tuple[str, str], list[bytes]] = {}
        self._by_address: dict[tuple[str, bytes], str] = {}

    def __contains__(self, endpoint: str) -> bool:
        return endpoint in self._entries

    def endpoints(self) -> list[str]:
        """The endpoints that have an entry."""
        return list(self._entries)

    def put(self, endpoint: str, entry: Entry) -> None:
        """Enter an endpoint, in place of what it had."""
        self.remove(endpoint)
        self.changes += 1
        self._entries[endpoint] = entry
        for address in entry.addresses:
            packed = ip_address(address).packed
            for name in entry.names:
                self._by_name.setdefault((entry.network, name.lower()), []).append(packed)
            self._by_address[entry.network, packed] = entry.names[0]

    def remove(self, endpoint: str) -> None:
        """Strike an endpoint out; no error if it has no entry."""
        entry = self._entries.pop(endpoint, None)
        if entry is None:
            return
        self.changes += 1
        for address in entry.addresses:
            packed = ip_address(address).packed
            for name in entry.names:
                key = (entry.network, name.lower())
                self._by_name[key].remove(packed)
                if not self._by_name[key]:
                    del self._by_name[key]
            self._by_address.pop((entry.network, packed), None)

    def find(self, networks: tuple[Member, ...], name: str, size: int) -> list[bytes] | None:
        """The addresses of `size` bytes behind a name, in random order, as a member of `networks` sees it.

        None: nobody there has that name. `web.front` is `web` in the network `front`, unless something is called
        like that; both parts may have dots.
        """
        wanted, network = name, ""
        while True:
            for member in networks:
                if network and network != member.name.lower():
                    continue
                found = self._by_name.get((member.id, member.aliases.get(wanted, wanted)))
                if found is not None:
                    addresses = [each for each in found if len(each) == size]
                    random.shuffle(addresses)
                    return addresses
            wanted, dot, last = wanted.rpartition(".")
            if not dot:
                return None
            network = f"{last}.{network}" if network else last

    def name_of(self, networks: tuple[Member, ...], address: bytes) -> str:
        """The name of an address, with its network behind a dot; empty if nobody has it."""
        for member in networks:
            name = self._by_address.get((member.id, address))
            if name is not None:
                return f"{name}.{member.name}"
        return ""
