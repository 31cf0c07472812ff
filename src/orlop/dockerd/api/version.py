# SPDX-License-Identifier: Apache-2.0
"""Versions of the Engine API: which are served, and their order."""

from orlop.errdefs import InvalidArgumentError

Version = tuple[int, int]

MAX: Version = (1, 56)
FLOOR: Version = (1, 24)
DEFAULT_MIN: Version = (1, 24)


def parse(text: str) -> Version:
    """`1.44` as (1, 44). Raises InvalidArgumentError."""
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor or "0")
    except ValueError:
        raise InvalidArgumentError(f"invalid API version: {text}") from None


def text(version: Version) -> str:
    """(1, 44) as `1.44`."""
    return f"{version[0]}.{version[1]}"


def check(version: Version, lowest: Version) -> None:
    """Raise InvalidArgumentError if a client's version is outside what is served."""
    if version < lowest:
        raise InvalidArgumentError(
            f"client version {text(version)} is too old. Minimum supported API version is {text(lowest)}, "
            "please upgrade your client to a newer version"
        )
    if version > MAX:
        raise InvalidArgumentError(
            f"client version {text(version)} is too new. Maximum supported API version is {text(MAX)}"
        )
