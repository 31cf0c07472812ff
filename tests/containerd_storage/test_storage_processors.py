# SPDX-License-Identifier: Apache-2.0
"""Stream processors: programs that make plain layers of other media types."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from support.containerd import Daemon
from support.storage import digest_of

from orlop.api.types_pb2 import Descriptor, Mount
from orlop.containerd.client import Client, typeurl
from orlop.containerd.config import StreamProcessor
from orlop.containerd.plugins.stream_processors import StreamProcessors
from orlop.errdefs import InvalidArgumentError, NotFoundError, NotImplementedByUsError

pytestmark = pytest.mark.root

TURNED = "application/vnd.example.turned"
CONFIG = """version = 3
[stream_processors.turn]
  accepts = ["application/vnd.example.turned"]
  returns = "application/vnd.example.packed"
  path = "tr"
  args = ["a-z", "n-za-m"]
[stream_processors.unpack]
  accepts = ["application/vnd.example.packed"]
  returns = "application/vnd.oci.image.layer.v1.tar"
  path = "base64"
  args = ["-d"]
[stream_processors.tell]
  accepts = ["application/vnd.example.tell"]
  returns = "application/vnd.oci.image.layer.v1.tar"
  path = "sh"
  args = ["-c", "echo $STREAM_PROCESSOR_MEDIATYPE $WORD >&2; cat <&3 >&2; exit 7"]
  env = ["WORD=of-config"]
[stream_processors.none]
  accepts = ["application/vnd.example.none"]
  returns = "application/vnd.oci.image.layer.v1.tar"
  path = "/no/such/program"
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    daemon = Daemon("orlop")
    Path(daemon.base, "config.toml").write_text(CONFIG)
    daemon.start("-c", f"{daemon.base}/config.toml")
    yield daemon
    daemon.remove()


@pytest.fixture
async def client(shared: Daemon) -> AsyncIterator[Client]:
    async with Client(shared.address, shared.namespace) as client:
        await client.leases.create("test")
        yield client.with_lease("test")
        await client.leases.delete("test", sync=True)


def layer(size: int = 100_000) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = size
        tar.addfile(info, io.BytesIO(b"x" * size))
    return data.getvalue()


def turned(data: bytes) -> bytes:
    """What the processors `turn` and `unpack` undo."""
    import base64

    letters = b"abcdefghijklmnopqrstuvwxyz"
    return base64.encodebytes(data).translate(bytes.maketrans(letters, letters[13:] + letters[:13]))


async def apply(
    client: Client, data: bytes, media_type: str, payloads: dict[str, object] | None = None
) -> Descriptor:
    digest = digest_of(data)
    await client.content.write_blob("layer", data, digest)
    key = f"s{len(data)}-{media_type[-6:]}"
    mounts = await client.snapshots("native").prepare(key)
    descriptor = Descriptor(media_type=media_type, digest=digest, size=len(data))
    made = await client.diff.apply(descriptor, mounts, payloads=payloads)
    check(mounts)
    return made


def check(mounts: list[Mount]) -> None:
    assert os.path.getsize(f"{mounts[0].source}/file") > 0


@pytest.mark.parametrize("compressed", [False, True])
async def test_two_steps(client: Client, compressed: bool) -> None:
    plain = layer()
    made = await apply(client, turned(gzip.compress(plain) if compressed else plain), TURNED)
    assert (made.digest, made.size) == (digest_of(plain), len(plain))


async def test_large(client: Client) -> None:
    """More than any pipe holds, in one pass."""
    plain = layer(20 << 20)
    assert (await apply(client, turned(plain), TURNED)).digest == digest_of(plain)


async def test_failures(client: Client) -> None:
    payload = {"tell": typeurl.pack(StringValue(value="a secret"))}
    with pytest.raises(InvalidArgumentError, match=r"tell failed with status 7: \S+tell of-config[\s\S]*a secret"):
        await apply(client, b"data", "application/vnd.example.tell", payload)
    with pytest.raises(NotFoundError, match="stream processor none: /no/such/program"):
        await apply(client, b"data", "application/vnd.example.none")
    with pytest.raises(InvalidArgumentError, match="stream processor unpack failed with status 1: base64"):
        await apply(client, b"\0\1\2", TURNED)
    with pytest.raises(InvalidArgumentError, match=r"layer|tar"):
        await apply(client, turned(b"no tar" * 10000), TURNED)
    with pytest.raises(NotImplementedByUsError):
        await apply(client, b"data", "application/vnd.example.other")


def test_chains() -> None:
    def step(name: str, accepts: str, returns: str) -> StreamProcessor:
        return StreamProcessor(name, [accepts], returns, "cat")

    processors = StreamProcessors([step("1", "a", "b"), step("2", "b", "c"), step("3", "l", "l")])
    assert processors.chain("c", ["c"]) == []
    assert [one.name for one in processors.chain("a", ["c"]) or ()] == ["1", "2"]
    assert processors.chain("x", ["c"]) is None
    assert processors.chain("l", ["c"]) is None
