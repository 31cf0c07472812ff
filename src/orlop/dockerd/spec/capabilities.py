# SPDX-License-Identifier: Apache-2.0
"""A container's capabilities from --cap-add, --cap-drop and --privileged."""

from collections.abc import Sequence

from orlop.errdefs import InvalidArgumentError
from orlop.oci.defaults import ALL_CAPABILITIES, DEFAULT_CAPABILITIES


def normalize(names: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Names in upper case with their CAP_ prefix; ALL stays. Raises InvalidArgumentError."""
    normalized = []
    for given in names or []:
        name = given.upper()
        if name != "ALL" and not name.startswith("CAP_"):
            name = f"CAP_{name}"
        if name != "ALL" and name not in ALL_CAPABILITIES:
            raise InvalidArgumentError(f'unknown capability: "{name}"')
        if name != "ALL" and name not in available:
            raise InvalidArgumentError(
                f'capability not supported by your kernel or not available in the current environment: "{name}"'
            )
        normalized.append(name)
    return normalized


def container_capabilities(
    add: Sequence[str] | None, drop: Sequence[str] | None, privileged: bool, available: Sequence[str]
) -> list[str]:
    """The capabilities of a container, in Docker's order. Raises InvalidArgumentError for an unknown name."""
    if privileged:
        return list(available)
    if not add and not drop:
        return list(DEFAULT_CAPABILITIES)
    added, dropped = normalize(add, available), normalize(drop, available)
    if "ALL" in added:
        return [name for name in available if name not in dropped]
    if "ALL" in dropped:
        return added
    kept = [name for name in DEFAULT_CAPABILITIES if name not in dropped]
    return list(dict.fromkeys(kept + added))
