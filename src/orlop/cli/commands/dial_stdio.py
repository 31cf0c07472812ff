# SPDX-License-Identifier: Apache-2.0
"""`system dial-stdio`: standard input and output as a connection to the daemon, for clients that come by ssh."""

from orlop.cli.command import Command
from orlop.cli.flags import Args
from orlop.cli.streams import copy
from orlop.engine.client import Client


def run(client: Client, args: Args) -> int:
    sock = client.dial()
    try:
        copy(sock, b"", stdin=True, multiplexed=False)
    finally:
        sock.close()
    return 0


DIAL_STDIO = Command(
    "dial-stdio",
    "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
    run,
)
