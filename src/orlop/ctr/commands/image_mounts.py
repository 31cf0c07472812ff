# SPDX-License-Identifier: Apache-2.0
"""ctr images mount and unmount."""

from __future__ import annotations

import os
import time

from orlop.containerd.client import Client
from orlop.ctr.commands.image_state import SNAPSHOTTER
from orlop.ctr.commands.image_transfers import LABELS, SYNC_FS
from orlop.ctr.flags import Flag, Values, duration
from orlop.ctr.main import Command
from orlop.ctr.mounting import mount_all, unmount_all
from orlop.ctr.registry import REGISTRY_FLAGS
from orlop.errdefs import NotFoundError, OrlopError


async def _mount(client: Client, values: Values) -> None:
    from orlop.containerd.client.unpack import from_proto, read_image, unpack
    from orlop.oci.image import chain_ids
    from orlop.oci.platforms import host_platform, parse_platform

    (name,) = values.need("image ref")
    given = values.arguments[1] if len(values.arguments) > 1 else ""
    platform = parse_platform(values["platform"]) if values["platform"] else host_platform()
    image = await client.images.get(name)
    content = await read_image(client, from_proto(image.target), platform)
    snapshotter = values["snapshotter"]
    await unpack(client, content, snapshotter, sync=values["sync-fs"])
    top = chain_ids(content.image.rootfs.diff_ids)[-1]
    # Without a target only the key of the snapshot is of use, which `ctr snapshots` can mount.
    key = given or top
    if not given:
        print(key)
        return
    labels = {f"containerd.io/gc.ref.snapshot.{snapshotter}": key}
    if values["expiration"]:
        expires = time.gmtime(time.time() + values["expiration"])
        labels["containerd.io/gc.expire"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", expires)
    await client.leases.create(key, labels)
    snapshots = client.with_lease(key).snapshots(snapshotter)
    try:
        mounts = await (snapshots.prepare(key, top) if values["rw"] else snapshots.view(key, top))
        try:
            mount_all(mounts, os.path.abspath(given))
        except OrlopError:
            await snapshots.remove(key)
            raise
    except OrlopError:
        await client.leases.delete(key)
        raise
    print(top)
    print(given)


async def _unmount(client: Client, values: Values) -> None:
    (target,) = values.need("target")
    unmount_all(os.path.abspath(target))
    if values["rm"]:
        for remove in (client.snapshots(values["snapshotter"]).remove, client.leases.delete):
            try:
                await remove(target)
            except NotFoundError:
                continue  # it is gone, as wanted
    print(target)


# Which ctr takes here and looks at nowhere.
_IGNORED = (*REGISTRY_FLAGS, LABELS)

COMMANDS = {
    "mount": Command(
        _mount,
        "mount an image to a target path",
        "[flags] <ref> [<target>]",
        (
            *_IGNORED,
            SYNC_FS,
            Flag("rw", bool, help="enable write support on the mount"),
            Flag("platform", help="mount the image for the specified platform"),
            Flag("expiration x", duration, 3600.0, "expiration of lease (0 value will not expire)"),
            SNAPSHOTTER,
        ),
    ),
    "unmount": Command(
        _unmount,
        "unmount the image from the target",
        "[flags] <target>",
        (*_IGNORED, Flag("rm", bool, help="remove the snapshot after a successful unmount"), SNAPSHOTTER),
    ),
}
