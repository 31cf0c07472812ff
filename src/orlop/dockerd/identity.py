# SPDX-License-Identifier: Apache-2.0
"""The daemon's ID, by which `docker info` and events name it."""

import secrets
from pathlib import Path


def read(data_root: Path) -> str:
    """The daemon's ID, made at its first start."""
    path = data_root / "engine-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    digits = secrets.token_hex(16)
    identity = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    path.write_text(identity + "\n")
    return identity
