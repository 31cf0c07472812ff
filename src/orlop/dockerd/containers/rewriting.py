# SPDX-License-Identifier: Apache-2.0
"""Changes files that are mounted into running containers: in place, for a replaced one would not be seen."""

from collections.abc import Callable


def rewrite(path: str, change: Callable[[str], str]) -> None:
    """Give a file that a container reads another content, without a moment in which it is empty."""
    with open(path, "r+", encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
        changed = change(text)
        if changed != text:
            file.seek(0)
            file.write(changed)
            file.truncate()
