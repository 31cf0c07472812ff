# SPDX-License-Identifier: Apache-2.0
"""What an OCI runtime's program says of itself, `features`, for `Runtimes` of GET /info."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

KEY = "org.opencontainers.runtime-spec.features"
"""The member of `status` that Docker shows the document as, a text."""
_SECONDS = 10


class RuntimeFeatures:
    """Answers of programs, each asked once as long as its file is the same."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int, int], asyncio.Future[str]] = {}

    async def status(self, program: str) -> dict[str, str]:
        """`status` of a runtime; empty where its program is not there, or has no such document."""
        path = shutil.which(program, path=_search_path())
        if path is None:
            return {}
        about = os.stat(path)
        key = (path, about.st_ino, about.st_mtime_ns)
        if key not in self._answers:
            self._answers[key] = asyncio.ensure_future(asyncio.to_thread(_ask, path))
        document = await asyncio.shield(self._answers[key])
        return {KEY: document} if document else {}


def _search_path() -> str:
    """Our own commands stand beside the interpreter."""
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"


def _ask(path: str) -> str:
    """The document in one line; empty if there is none."""
    try:
        done = subprocess.run(
            [path, "features"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True
        )
        return msgspec.json.encode(msgspec.json.decode(done.stdout, type=dict)).decode()
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return ""
