# SPDX-License-Identifier: Apache-2.0
"""Asks before something cannot be undone."""

import sys


def confirmed(warning: str, forced: bool) -> bool:
    """Whether the user agrees; without a question when he has said so before."""
    if forced:
        return True
    print(warning)
    print("Are you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
