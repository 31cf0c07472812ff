# SPDX-License-Identifier: Apache-2.0
"""A project of docker compose, whichever command it is driven by."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.stack import Stack


class Project:
    """A compose project of its own name in a directory of its own; `command` runs compose."""

    def __init__(self, stack: Stack, directory: Path, command: Sequence[str]) -> None:
        self._stack, self._directory, self._command = stack, directory, command

    def compose(self, *arguments: str, status: int = 0) -> str:
        """Run compose to its end: its standard output, or its standard error if it shall fail."""
        done = subprocess.run(
            [*self._command, "-p", "six", *arguments],
            cwd=self._directory, env=self._stack.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What inspect says of a service's containers."""
        label = f"label=com.docker.compose.service={service}"
        ids = self._stack.docker("ps", "-aq", "--filter", label).ok().split()
        return json.loads(self._stack.docker("inspect", *ids).ok()) if ids else []

    def events(self) -> list[str]:
        """What containers did so far: `start six_app_1` and the like."""
        form = "{{.Action}} {{.Actor.Attributes.name}}"
        span = ("--since", "1", "--until", str(int(time.time()) + 1))  # what happens in this second too
        return (
            self._stack.docker("events", *span, "--filter", "type=container", "--format", form).ok().splitlines()
        )
