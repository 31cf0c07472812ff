# SPDX-License-Identifier: Apache-2.0
"""A steady load of HTTP requests, and the server for it: programs that a test starts in namespaces and containers.

    http_load.py serve PORT                       answer "ok" to every request, until killed
    http_load.py load TARGET PORT RATE [RESOLVER]  RATE requests a second, each on a connection of its own, besides
                                                  three connections that stay open; with RESOLVER, TARGET is a name
                                                  that is asked of it anew for each request

The load goes on until standard input ends; then one line of JSON tells what came of it. Standard library only: the
server runs on whatever python3 there is.
"""

import asyncio
import collections
import json
import os
import socket
import struct
import sys
import time

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
_KEPT = 3
_PATIENCE_SECONDS = 20.0
_DNS_TRY_SECONDS = 5.0


class _Served(asyncio.Protocol):
    def connection_made(self, transport):
        self._transport = transport
        self._received = b""

    def data_received(self, data):
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._transport.write(_ANSWER)
            if b"Connection: close" in head:
                self._transport.close()


async def _serve(port):
    server = await asyncio.get_running_loop().create_server(_Served, "", port, backlog=1024)
    print("serving", flush=True)
    await server.serve_forever()


class Load:
    """What was asked and what came of it."""

    def __init__(self, target, port, rate, resolver):
        self._target, self._port, self._rate, self._resolver = target, port, rate, resolver
        self._failures = collections.Counter()
        self._done = 0
        self._slowest = 0.0
        self._kept = 0

    async def run(self):
        """Until standard input ends."""
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, lambda: os.read(0, 1) or ended.set())
        kept = [asyncio.create_task(self._keep(ended)) for _ in range(_KEPT)]
        asked = set()
        begin, number, most = time.monotonic(), 0, 0
        print("loading", flush=True)
        while not ended.is_set():
            number += 1
            task = asyncio.create_task(self._ask())
            asked.add(task)
            most = max(most, len(asked))
            task.add_done_callback(asked.discard)
            await asyncio.sleep(max(0.0, begin + number / self._rate - time.monotonic()))
        seconds = time.monotonic() - begin
        await asyncio.gather(*asked, *kept)
        row = {"done": self._done, "kept": self._kept, "seconds": seconds, "slowest": self._slowest}
        row["at_a_time"] = most + _KEPT
        print(json.dumps({**row, "failures": dict(self._failures)}))

    async def _ask(self):
        begin = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._exchange(close=True)
            self._done += 1
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            self._failures[type(error).__name__] += 1
        self._slowest = max(self._slowest, time.monotonic() - begin)

    async def _keep(self, ended):
        """One connection with a request each 50 ms."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                reader, writer = await asyncio.open_connection(await self._address(), self._port)
            while not ended.is_set():
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._request(reader, writer, close=False)
                self._kept += 1
                await asyncio.sleep(0.05)
            writer.close()
        except (OSError, EOFError) as error:
            self._failures[f"kept connection: {type(error).__name__}"] += 1

    async def _exchange(self, *, close):
        reader, writer = await asyncio.open_connection(await self._address(), self._port)
        try:
            await self._request(reader, writer, close=close)
        finally:
            writer.close()

    async def _request(self, reader, writer, *, close):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"Connection: close\r\n" if close else b""))
        answer = await reader.readexactly(len(_ANSWER))
        if answer != _ANSWER:
            raise EOFError(answer)

    async def _address(self):
        if not self._resolver:
            return self._target
        labels = b"".join(bytes([len(label)]) + label.encode() for label in self._target.split("."))
        query = os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.setblocking(False)
            asker.connect((self._resolver, 53))
            loop = asyncio.get_running_loop()
            for last in (False, True):  # as the resolver of a C library does: 5 s, twice
                try:
                    async with asyncio.timeout(_DNS_TRY_SECONDS):
                        await loop.sock_sendall(asker, query)
                        answer = await loop.sock_recv(asker, 512)
                    break
                except OSError:
                    if last:
                        raise
        if struct.unpack_from(">H", answer, 6)[0] == 0:
            raise EOFError(f"no address for {self._target}")
        return socket.inet_ntoa(answer[len(query) + 12 : len(query) + 16])


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(int(sys.argv[2])))
    else:
        asyncio.run(Load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), *(sys.argv[5:] or [""])).run())
