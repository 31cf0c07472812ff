# SPDX-License-Identifier: Apache-2.0
"""The process that unpacks layers: `python -P -m orlop.containerd.plugins.layer_worker <fd of its socket>`.

Unpacking is bound by the interpreter, and its input comes from strangers: in a process of its own it neither holds
up the event loop nor can it take the daemon down. One job is one packet each way on a SOCK_SEQPACKET pair:

    daemon -> worker   {"digest", "opaque", "sync"} and descriptors: the blob, the root, lower directories
                       (a digest that is empty is not compared: the blob is what a program makes, in a pipe)
    worker -> daemon   {"digest", "size"} of the uncompressed layer, or {"code", "message"} of an error

The worker ends when the socket does, also in the middle of a job. It is given up by being killed.
"""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable

from orlop.containerd.archive.apply import apply_layer
from orlop.containerd.archive.compression import LayerSource
from orlop.errdefs import DataLossError, ResourceExhaustedError
from orlop.rpc import status
from orlop.unix import fs
from orlop.unix.process import in_user_namespace

MAX_PACKET = 1 << 16
MEMORY_MAX = 2 << 30  # bytes of data; each member of a layer takes about 200, so some ten million members
MAX_DESCRIPTORS = 253  # of one message (unix(7), SCM_MAX_FD)


def main(descriptor: int) -> None:
    """Serve jobs from the socket, one after the other, until the daemon closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the daemon
    os.umask(0)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MAX, MEMORY_MAX))
    with socket.socket(fileno=descriptor) as channel:
        hangup = select.poll()
        hangup.register(channel, 0)  # POLLHUP is always reported
        while True:
            packet, descriptors, _, _ = socket.recv_fds(channel, MAX_PACKET, MAX_DESCRIPTORS)
            if not packet:
                return
            exhausted = False
            try:
                answer = _serve(json.loads(packet), descriptors, lambda: bool(hangup.poll(0)))
            except MemoryError:
                error = ResourceExhaustedError(f"layer takes more than {MEMORY_MAX >> 20} MiB of memory to unpack")
                answer = {"code": status.code_of(error), "message": status.message_of(error)}
                exhausted = True
            finally:
                for received in descriptors:
                    os.close(received)
            with contextlib.suppress(BrokenPipeError):
                channel.send(json.dumps(answer).encode())
            if exhausted:
                return  # what was in the way is scattered over the heap: another worker begins anew


def _serve(job: dict[str, object], descriptors: list[int], abandoned: Callable[[], bool]) -> dict[str, object]:
    blob, root, *lower = descriptors
    devices = not in_user_namespace()
    try:
        with LayerSource(blob) as source:
            apply_layer(
                iter(source), root, opaque=str(job["opaque"]), lower=lower, devices=devices, cancelled=abandoned
            )
            if job["digest"] and source.compressed_digest != job["digest"]:
                raise DataLossError(
                    f"content {job['digest']} is damaged: its digest is {source.compressed_digest}"
                )
            if job["sync"]:
                fs.syncfs(root)
            return {"digest": source.digest, "size": source.size}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the edge of the process: the daemon raises it again
        return {"code": status.code_of(error), "message": status.message_of(error)}


if __name__ == "__main__":
    main(int(sys.argv[1]))
