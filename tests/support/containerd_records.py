# SPDX-License-Identifier: Apache-2.0
"""Records of containers that tests of containerd's API make."""

from __future__ import annotations

import json

from orlop.api import containers_pb2
from orlop.containerd.client import typeurl

RUNC = "io.containerd.runc.v2"
KINDS = ("pid", "ipc", "uts", "mount", "network")


def spec(namespace: str, rootfs: str, *arguments: str, id: str = "x", kinds: tuple[str, ...] = KINDS) -> bytes:
    """A config.json for a process in a root file system and in namespaces of these kinds."""
    return json.dumps(
        {
            "ociVersion": "1.0.2",
            "process": {"args": arguments, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
            "root": {"path": rootfs},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in kinds],
                "cgroupsPath": f"/{namespace}/{id}",
            },
        }
    ).encode()


def record(id: str, spec_: bytes, runtime: str = RUNC, **labels: str) -> containers_pb2.Container:
    """A container's record."""
    return containers_pb2.Container(
        id=id,
        labels=labels,
        runtime=containers_pb2.Container.Runtime(name=runtime),
        spec=typeurl.pack_json(typeurl.SPEC, spec_),
    )
