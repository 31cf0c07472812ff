# SPDX-License-Identifier: Apache-2.0
"""From -v, --mount, --volumes-from and VOLUME to mount points."""

import itertools
import os

import pytest

from orlop.dockerd.spec import MountPoint, resolve_mounts
from orlop.dockerd.spec.mountowner import HIGHEST_ID, swapped
from orlop.dockerd.spec.mounts import parse_bind, parse_mount
from orlop.dockerd.spec.tmpfs import merge_tmpfs_options, tmpfs_data
from orlop.engine.types import (
    BindOptions,
    ContainerConfig,
    HostConfig,
    ImageOptions,
    Mount,
    MountOwner,
    TmpfsOptions,
    VolumeDriverConfig,
    VolumeOptions,
)
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.runtime import IDMapping


@pytest.mark.parametrize(("raw", "expected"), [
    ("/a:/b", ("bind", "/a", "", "/b", "", True, "rprivate")),
    ("/a/../c:/b/:ro", ("bind", "/c", "", "/b", "ro", False, "rprivate")),
    ("/a:/b:ro,rslave,Z", ("bind", "/a", "", "/b", "ro,rslave,Z", False, "rslave")),
    ("data:/b", ("volume", "", "data", "/b", "", True, "")),
    ("data:/b:nocopy", ("volume", "", "data", "/b", "nocopy", True, "")),
    ("/b", ("volume", "", "", "/b", "", True, "")),
])  # fmt: skip
def test_binds(raw, expected):
    point = parse_bind(raw)
    assert (
        point.type, point.source, point.name, point.destination, point.mode, point.rw, point.propagation,
    ) == expected  # fmt: skip
    assert point.copy_data == (point.type == "volume" and "nocopy" not in raw)


@pytest.mark.parametrize(("raw", "message"), [
    ("", "invalid volume specification: ''"),
    (":/b", "invalid volume specification: ':/b'"),
    ("/a:ro", "invalid volume specification: '/a:ro'"),
    ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
    ("/a:/b:xx", "invalid mode: xx"),
    ("/a:/b:ro,rw", "invalid mode: ro,rw"),
    ("/a:/b:z,Z", "invalid mode: z,Z"),
    ("/a:/", "destination can't be '/'"),
    ("/a:/b:uid=", "uid=: expected one uid=NUMBER and one gid=NUMBER"),
    ("/a:/b:uid=1,uid=2", "uid=2: expected one uid=NUMBER"),
    ("/a:/b:gid=4294967295", "field Owner: UID and GID must lie between 0 and 4294967294"),
    ("/a:b", "invalid mount path: 'b' mount path must be absolute"),
    ("data:/b:rshared", "field BindOptions must not be specified"),
    ("/a:/b:nocopy", "field VolumeOptions must not be specified"),
])  # fmt: skip
def test_binds_that_are_refused(raw, message):
    with pytest.raises(InvalidArgumentError) as caught:
        parse_bind(raw)
    assert message in str(caught.value)


@pytest.mark.parametrize(("mode", "uid", "gid"), [("uid=5,gid=6", 5, 6), ("ro,gid=7", 7, 7), ("uid=8,z", 8, 8)])
def test_binds_with_an_owner(mode, uid, gid):
    point = parse_bind(f"/a:/b:{mode}")
    assert point.spec.owner == MountOwner(uid=uid, gid=gid)
    assert point.rw == ("ro" not in mode)


@pytest.mark.parametrize("on_disk", [0, 1, 2, 1000, HIGHEST_ID - 1, HIGHEST_ID])
@pytest.mark.parametrize("in_container", [0, 1, 2, 33, HIGHEST_ID - 1, HIGHEST_ID])
def test_an_owner_s_mapping_shows_every_other_id_as_itself(on_disk, in_container):
    mappings = swapped(on_disk, in_container)
    if on_disk == in_container:
        assert mappings == []
        return
    assert [m for m in mappings if m.container_id != m.host_id] == [IDMapping(on_disk, in_container, 1)]
    for side in ("container_id", "host_id"):
        ends = sorted((getattr(m, side), getattr(m, side) + m.size) for m in mappings)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    assert sum(m.size for m in mappings) == HIGHEST_ID


@pytest.mark.parametrize(("mount", "message"), [
    (Mount(type="bind", target="/b"), 'invalid mount config for type "bind": field Source must not be empty'),
    (Mount(type="bind", source="/no/such", target="/b"),
     'invalid mount config for type "bind": bind source path does not exist: /no/such'),
    (Mount(type="bind", source="a", target="/b"), "invalid mount path: 'a' mount path must be absolute"),
    (Mount(type="bind", source="/", target="/b", bind_options=BindOptions(propagation="x")),
     "invalid propagation mode: x"),
    (Mount(type="bind", source="/"), "field Target must not be empty"),
    (Mount(type="volume", target="/b", bind_options=BindOptions()), "field BindOptions must not be specified"),
    (Mount(type="volume", target="/b", volume_options=VolumeOptions(subpath="x")),
     "must not set Subpath when using anonymous volumes"),
    (Mount(type="volume", source="v", target="/b", volume_options=VolumeOptions(subpath="../x")),
     "subpath must be a relative path within the volume"),
    (Mount(type="tmpfs", source="x", target="/b"), "field Source must not be specified"),
    (Mount(type="tmpfs", target="/b", tmpfs_options=TmpfsOptions(options=[["suid"]])), "invalid option: suid"),
    (Mount(type="tmpfs", target="/b", tmpfs_options=TmpfsOptions(options=[[]])), "invalid option array length"),
    (Mount(type="image", target="/b"), "field Source must not be empty"),
    (Mount(type="image", source="i", target="/b", image_options=ImageOptions(subpath="/x")), "subpath must be"),
    (Mount(type="", target="/b"), 'invalid mount config for type "": mount type unknown'),
    (Mount(type="npipe", target="/b"), "mount type unknown"),
])  # fmt: skip
def test_mounts_that_are_refused(mount, message):
    with pytest.raises(InvalidArgumentError) as caught:
        parse_mount(mount)
    assert message in str(caught.value)


def test_mounts():
    volume = parse_mount(
        Mount(type="volume", source="v", target="/b", read_only=True,
              volume_options=VolumeOptions(no_copy=True, driver_config=VolumeDriverConfig(name="local")))
    )  # fmt: skip
    assert (volume.name, volume.driver, volume.rw, volume.copy_data, volume.anonymous) == (
        "v",
        "local",
        False,
        False,
        False,
    )
    assert parse_mount(Mount(type="volume", target="/b")).anonymous
    bind = parse_mount(
        Mount(type="bind", source="/", target="/b/../c", bind_options=BindOptions(propagation="rshared"))
    )
    assert (bind.destination, bind.propagation, bind.create_source) == ("/c", "rshared", False)


def test_what_inspect_shows():
    point = parse_bind("/a:/b:ro")
    assert point.inspect() == {
        "Type": "bind", "Source": "/a", "Destination": "/b", "Mode": "ro", "RW": False, "Propagation": "rprivate",
    }  # fmt: skip
    volume = MountPoint(type="volume", name="v", source="/v/_data", destination="/b", driver="local", mode="z")
    assert list(volume.inspect()) == [
        "Type",
        "Name",
        "Source",
        "Destination",
        "Driver",
        "Mode",
        "RW",
        "Propagation",
    ]


def test_all_sources_together(tmp_path):
    other = [
        MountPoint(type="volume", name="theirs", source="/v/theirs", destination="/theirs", copy_data=True),
        MountPoint(type="bind", source="/x", destination="/both", propagation="rprivate"),
    ]  # fmt: skip
    config = ContainerConfig(volumes={place: {} for place in ("/image", "/theirs/", "/run", "../../odd")})
    host_config = HostConfig(
        volumes_from=["other:ro"],
        binds=[f"{tmp_path}/new/deep:/both"],
        mounts=[Mount(type="tmpfs", target="/scratch")],
        tmpfs={"/run": ""},
    )
    points = {point.destination: point for point in resolve_mounts(config, host_config, {"other": other})}
    assert sorted(points) == ["/both", "/image", "/odd", "/scratch", "/theirs"]
    assert points["/theirs"].name == "theirs" and not points["/theirs"].rw and not points["/theirs"].copy_data
    assert points["/both"].source == f"{tmp_path}/new/deep" and os.path.isdir(tmp_path / "new" / "deep")
    assert points["/image"].anonymous and points["/image"].copy_data and points["/image"].name == ""


@pytest.mark.parametrize("fields", [
    {"binds": ["/tmp:/x", "/var:/x/"]},
    {"binds": ["/tmp:/x"], "mounts": [Mount(type="tmpfs", target="/x")]},
    {"binds": ["/tmp:/x"], "tmpfs": {"/x": ""}},
    {"mounts": [Mount(type="tmpfs", target="/x"), Mount(type="volume", target="/x")]},
])  # fmt: skip
def test_two_in_one_place(fields):
    with pytest.raises(InvalidArgumentError, match="Duplicate mount point: /x"):
        resolve_mounts(ContainerConfig(), HostConfig(**fields))


def test_nothing_is_created_for_a_request_that_is_refused(tmp_path):
    fields = {"binds": [f"{tmp_path}/new:/x"], "mounts": [Mount(type="tmpfs", target="/x")]}
    with pytest.raises(InvalidArgumentError):
        resolve_mounts(ContainerConfig(), HostConfig(**fields))
    assert os.listdir(tmp_path) == []


def test_volumes_from_that_are_refused():
    for text, message in (("", "cannot be an empty string"), ("a:xx", "invalid mode: xx"), ("a:nocopy", "nocopy")):
        with pytest.raises(InvalidArgumentError, match=message):
            resolve_mounts(ContainerConfig(), HostConfig(volumes_from=[text]), {"a": []})
    with pytest.raises(NotFoundError, match="No such container: b"):
        resolve_mounts(ContainerConfig(), HostConfig(volumes_from=["b"]), {"a": []})


def test_a_source_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgumentError, match=r"error while creating mount source path .*: not a directory"):
        resolve_mounts(ContainerConfig(), HostConfig(binds=[f"{tmp_path}/file/below:/x"]))


def test_tmpfs_options():
    assert merge_tmpfs_options(["noexec", "size=1", "exec", "size=2", "defaults"]) == ["exec", "size=2"]
    assert merge_tmpfs_options(["rprivate", "shared"]) == ["shared"]
    assert tmpfs_data(TmpfsOptions(size_bytes=3 << 30, options=[["exec"]]), True) == "ro,size=3g,exec"
    assert tmpfs_data(TmpfsOptions(size_bytes=1000), False) == "size=1000"
