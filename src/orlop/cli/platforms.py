# SPDX-License-Identifier: Apache-2.0
"""Platforms as the Engine API wants them."""

from orlop.cli.errors import ExitError


def as_json(text: str) -> str | None:
    """`os[/arch[/variant]]` as the JSON of a platform; None for no text. Raises ExitError."""
    if not text:
        return None
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(parts):
        raise ExitError(f'invalid platform: "{text}" is an invalid OS/architecture: expected os[/arch[/variant]]')
    from orlop.cli.gotemplate import to_json

    return to_json(dict(zip(("os", "architecture", "variant"), parts, strict=False)))
