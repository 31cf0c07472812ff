# SPDX-License-Identifier: Apache-2.0
"""The tags of a repository (distribution specification, "Listing Tags")."""

import msgspec

from orlop.codec import decode
from orlop.errdefs import InvalidArgumentError
from orlop.oci.image import MANIFEST_SIZE_MAX
from orlop.oci.reference import Reference
from orlop.registry.transport import Connection, Transport, read_document

PAGES_MAX = 1000


class _TagList(msgspec.Struct):
    tags: list[str] | None = None


async def find_tags(transport: Transport, reference: Reference, connection: Connection) -> list[str]:
    """All tags at one endpoint. Raises InvalidArgumentError for a malformed list or one without end."""
    found: list[str] = []
    path = f"/v2/{reference.path}/tags/list"
    for _ in range(PAGES_MAX):
        async with transport.request(
            connection, "GET", path, reference, {"Accept": "application/json"}
        ) as response:
            await transport.check(reference, response, "GET", connection.address(path))
            found += decode(await read_document(response, MANIFEST_SIZE_MAX), _TagList).tags or []
            link = response.links.get("next")
        if not link:
            return found
        path = str(link["url"])
    raise InvalidArgumentError(f"tags of {reference.familiar_name}: more than {PAGES_MAX} pages")
