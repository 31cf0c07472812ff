# SPDX-License-Identifier: Apache-2.0
"""Have schemathesis make requests up from the daemon's own description, and see that none is a server error.

The daemon runs in a network namespace and directories of its own. schemathesis gets an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys

from support.stack import Stack

CACHE = "/var/cache/orlop-tests/schemathesis"
PACKAGE = "schemathesis==4.32.5"
PORT = 2375  # of the daemon's own network namespace
# Streams that end when the client leaves, and what takes the connection over.
EXCLUDED = r"^/(events|session|grpc)$|/(attach|attach/ws|logs|stats|wait)$|^/debug"

# 501 and 503 say that a feature is off, or a registry out of reach.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "501", "503"]
"""


def environment(cache: str) -> str:
    """Where schemathesis is installed, once."""
    ready = pathlib.Path(cache, PACKAGE)
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", cache], check=True)
        subprocess.run([f"{cache}/bin/pip", "install", "-q", "--disable-pip-version-check", PACKAGE], check=True)
        ready.touch()
    return f"{cache}/bin/schemathesis"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests/conformance/fuzz", description=__doc__)
    parser.add_argument("--cache", default=CACHE, help="where schemathesis is kept (default: %(default)s)")
    parser.add_argument("--examples", default="20", help="requests an operation (default: %(default)s)")
    parser.add_argument("--seed", default="1", help="of what is made up (default: %(default)s)")
    given = parser.parse_args()
    program = environment(given.cache)
    address = f"tcp://127.0.0.1:{PORT}"
    with Stack(flags=["-H", address, "--tls=false"]) as stack:
        stack.load("busybox")
        config = f"{stack.base}/schemathesis.toml"
        pathlib.Path(config).write_text(CONFIG, encoding="utf-8")
        command = [
            "nsenter", f"--net=/proc/{stack.process.pid}/ns/net", program, "--config-file", config, "run",
            f"http://127.0.0.1:{PORT}/openapi.json", "--checks", "not_a_server_error", "--phases", "fuzzing",
            "--max-examples", given.examples, "--seed", given.seed, "--request-timeout", "20", "--no-color",
            "--exclude-path-regex", EXCLUDED,
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=stack.base, env=dict(os.environ, HOME=stack.base), check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
