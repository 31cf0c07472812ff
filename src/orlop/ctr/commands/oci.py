# SPDX-License-Identifier: Apache-2.0
"""ctr oci."""

from __future__ import annotations

import json

from orlop import codec
from orlop.containerd.client import Client
from orlop.ctr.flags import Values
from orlop.ctr.main import Command
from orlop.oci.defaults import containerd_default_spec


async def _spec(client: Client, _values: Values) -> None:
    document = json.loads(codec.encode(containerd_default_spec("", client.namespace)))
    document["process"]["user"] = {"uid": 0, "gid": 0}
    # Of no container: without its id, and without the devices that `ctr run` allows.
    document["linux"]["cgroupsPath"] = f"/{client.namespace}"
    document["linux"]["resources"]["devices"] = document["linux"]["resources"]["devices"][:1]
    print(json.dumps(document, indent=4))


COMMANDS = {"spec": Command(_spec, "see the output of the default OCI spec")}
