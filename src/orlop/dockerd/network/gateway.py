# SPDX-License-Identifier: Apache-2.0
"""Which of a container's networks its default route leads through (pure functions)."""

from collections.abc import Sequence

from orlop.dockerd.network.types import Endpoint, Network

Pair = tuple[Network, Endpoint]


def in_order(pairs: Sequence[Pair]) -> list[Pair]:
    """A container's endpoints in Docker's order: by gateway priority, ways out first, then by name."""
    return sorted(pairs, key=lambda pair: (-pair[1].gw_priority, not leads_outside(pair[0]), pair[0].name))


def choose(pairs: Sequence[Pair]) -> Pair | None:
    """The endpoint with the default route, through which ports are published too; None: there is no way out."""
    return next((pair for pair in in_order(pairs) if leads_outside(pair[0])), None)


def leads_outside(network: Network) -> bool:
    """Whether a network has a way out."""
    return network.driver == "bridge" and not network.internal
