# SPDX-License-Identifier: Apache-2.0
"""ctr oci."""

from __future__ import annotations

import json

from orlop import codec
from orlop.containerd.client import Client
from orlop.ctr.flags import Flag, Values
from orlop.ctr.main import Command
from orlop.errdefs import NotImplementedByUsError
from orlop.oci.defaults import containerd_default_spec
from orlop.oci.platforms import host_platform, parse_platform


async def _spec(client: Client, values: Values) -> None:
    platform = parse_platform(values["platform"]) if values["platform"] else host_platform()
    if platform.os != "linux":
        raise NotImplementedByUsError(f"platform: containers of {platform.os}")
    document = json.loads(codec.encode(containerd_default_spec("", client.namespace)))
    document["process"]["user"] = {"uid": 0, "gid": 0}
    # Of no container: without its id, and without the devices that `ctr run` allows.
    document["linux"]["cgroupsPath"] = f"/{client.namespace}"
    document["linux"]["resources"]["devices"] = document["linux"]["resources"]["devices"][:1]
    print(json.dumps(document, indent=4))


COMMANDS = {
    "spec": Command(
        _spec,
        "see the output of the default OCI spec",
        flags=(Flag("platform", help="platform of the spec (e.g. linux/arm64)"),),
    )
}
