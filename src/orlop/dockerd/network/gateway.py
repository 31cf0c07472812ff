# SPDX-License-Identifier: Apache-2.0
"""Which of a container's networks its default routes lead through (pure functions)."""

from collections.abc import Sequence

from orlop.dockerd.network import drivers
from orlop.dockerd.network.links import Route
from orlop.dockerd.network.types import Endpoint, Network

Pair = tuple[Network, Endpoint]


def in_order(pairs: Sequence[Pair]) -> list[Pair]:
    """A container's endpoints in Docker's order: by gateway priority, ways out first, then by name."""
    return sorted(
        pairs,
        key=lambda pair: (pair[1].way_out, -pair[1].gw_priority, not leads_outside(*pair), pair[0].name),
    )


def routes(pairs: Sequence[Pair]) -> list[tuple[Pair, Route]]:
    """The default routes of a container, one for each family at most, with the endpoint each leads through."""
    found: dict[int, tuple[Pair, Route]] = {}
    for pair in in_order(pairs):
        for route in drivers.of(pair[0]).default_routes(*pair):
            found.setdefault(route.family, (pair, route))
    return [found[family] for family in sorted(found)]


def choose(pairs: Sequence[Pair]) -> Pair | None:
    """The endpoint through which ports are published: that of the first route; None: there is no way out."""
    return next((pair for pair, _ in routes(pairs)), None)


def leads_outside(network: Network, endpoint: Endpoint) -> bool:
    """Whether a network has a way out."""
    return bool(drivers.of(network).default_routes(network, endpoint))
