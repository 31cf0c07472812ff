# SPDX-License-Identifier: Apache-2.0
"""A lease for as long as a piece of work takes, so that the collector leaves alone what it makes."""

from __future__ import annotations

import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from orlop.errdefs import NotFoundError, OrlopError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.client.client import Client

EXPIRES = 24 * 3600  # seconds: what a client that died left behind is collected after a day


@asynccontextmanager
async def leased(client: Client) -> AsyncIterator[Client]:
    """A client whose calls happen under a lease of their own, which ends with the block.

    Within the lease of the client that was given, if it has one. Raises what creating a lease raises.
    """
    if client.lease:
        yield client
        return
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + EXPIRES))
    lease = f"orlop-{secrets.token_hex(8)}"
    await client.leases.create(lease, {"containerd.io/gc.expire": expires})
    try:
        yield client.with_lease(lease)
    finally:
        try:
            await client.leases.delete(lease)
        except NotFoundError:
            pass  # somebody ended it already
        except OrlopError:
            # The daemon is gone or failing: the lease ends by itself, and the block's own error matters more.
            pass
