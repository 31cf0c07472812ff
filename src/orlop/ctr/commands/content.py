# SPDX-License-Identifier: Apache-2.0
"""ctr content."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time

from orlop.api.content_pb2 import Info
from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.commands import content_registry
from orlop.ctr.flags import Flag, Values, duration
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command
from orlop.errdefs import InternalError, InvalidArgumentError, NotFoundError


async def _list(client: Client, values: Values) -> None:
    found = [info async for info in client.content.list(*values.arguments)]
    if values["quiet"]:
        print("".join(f"{info.digest}\n" for info in found), end="")
        return
    rows = [("DIGEST", "SIZE", "AGE", "LABELS")]
    rows += [
        (
            info.digest,
            table.decimal_size_text(info.size),
            table.age_text(info.created_at),
            table.label_text(info.labels),
        )
        for info in found
    ]
    print(table.tabbed(rows), end="")


async def _delete(client: Client, values: Values) -> None:
    values.need("digest")
    for digest in values.arguments:
        try:
            await client.content.delete(digest)
        except NotFoundError:
            continue  # it is gone, as wanted
        print(digest)


async def _get(client: Client, values: Values) -> None:
    (digest,) = values.need("digest")
    async for data in client.content.read(digest):
        sys.stdout.buffer.write(data)
    sys.stdout.flush()


async def _ingest(client: Client, values: Values) -> None:
    (ref,) = values.need("reference")
    size, expected = values["expected-size"], values["expected-digest"]
    async with client.content.writer(ref, size=size, expected=expected) as writer:
        if writer.offset:
            await writer.restart()
        while data := sys.stdin.buffer.read(1 << 20):
            await writer.write(data)
        await writer.commit(size=size, expected=expected)


async def _active(client: Client, values: Values) -> None:
    async with asyncio.timeout(values["timeout"] or None):
        statuses = await client.content.statuses(*(f"ref~={each}" for each in values.arguments))
    rows = [("REF", "SIZE", "AGE")]
    rows += [
        (each.ref, table.decimal_size_text(each.offset), table.age_text(each.started_at)) for each in statuses
    ]
    print(table.tabbed(rows, trail=True), end="")


async def _label(client: Client, values: Values) -> None:
    (digest,) = values.need("digest")
    labels = label_arguments(values.arguments[1:])
    info = await client.content.update(Info(digest=digest, labels=labels), *(f"labels.{key}" for key in labels))
    print(table.label_text(info.labels, ""))


def _edited(editor: str, raw: bytes) -> bytes:
    """What an editor makes of `raw`. Raises InternalError."""
    with tempfile.NamedTemporaryFile(prefix="edit-") as file:
        file.write(raw)
        file.flush()
        done = subprocess.run(["sh", "-c", f'{editor} "$1"', "edit", file.name], check=False)
        if done.returncode:
            raise InternalError(f"editor {editor}: exit status {done.returncode}")
        with open(file.name, "rb") as edited:  # an editor may have put another file in its place
            return edited.read()


async def _edit(client: Client, values: Values) -> None:
    (digest,) = values.need("digest")
    if values["validate"]:
        raise InvalidArgumentError("validate: edited content is not validated")
    editor = values["editor"] or os.environ.get("EDITOR", "")
    if not editor:
        raise InvalidArgumentError("editor: no editor is given, nor is EDITOR set")
    raw = _edited(editor, await client.content.read_blob(digest))
    made = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    kept = {"containerd.io/gc.root": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    await client.content.write_blob(f"edit-{digest}", raw, made, kept)
    print(made)


async def _prune_references(client: Client, values: Values) -> None:
    """Let go of layers: what has been unpacked is in the snapshots, and comes again from the registry."""
    if values["dry"]:
        print("ctr: dry run, no changes will be applied", file=sys.stderr)
    async for info in client.content.list():
        for label in sorted(info.labels):
            if not _LAYER_LABEL.fullmatch(label):
                continue
            print(f"ctr: removing label {label} of {info.digest}", file=sys.stderr)
            if not values["dry"]:
                await client.content.update(Info(digest=info.digest), f"labels.{label}")
    if not values["dry"]:
        lease = f"ctr-prune-{secrets.token_hex(8)}"
        await client.leases.create(lease)
        await client.leases.delete(lease, sync=not values["async"])  # the end of a lease is a collection


_LAYER_LABEL = re.compile(r"containerd\.io/gc\.ref\.content\.(l\.)?\d+")

COMMANDS = {
    "edit": Command(
        _edit,
        "edit a blob and return a new digest",
        "[flags] <digest>",
        (
            Flag("validate", help="validate the result against a format (json, mediatype, etc.)"),
            Flag("editor", help="select editor (vim, emacs, etc.)", env="EDITOR"),
        ),
    ),
    "prune references": Command(
        _prune_references,
        "prunes preference labels from the content store (layers only by default)",
        "[flags]",
        (
            Flag("async", bool, help="allow garbage collection to cleanup asynchronously"),
            Flag("dry", bool, help="just show updates without applying"),
        ),
    ),
    **content_registry.COMMANDS,
    "active": Command(
        _active,
        "display active transfers",
        "[flags] [<regexp>]",
        (
            Flag("timeout t", duration, 0.0, "total timeout", "CONTAINERD_FETCH_TIMEOUT"),
            Flag("root", help="path to content store root (without effect, as in ctr)"),
        ),
    ),
    "delete": Command(_delete, "permanently delete one or more blobs", "[<digest>, ...]"),
    "get": Command(_get, "get the data for an object", "[<digest>, ...]"),
    "ingest": Command(
        _ingest,
        "accept content into the store",
        "[flags] <key>",
        (
            Flag("expected-size", int, help="validate against provided size"),
            Flag("expected-digest", help="verify content against expected digest"),
        ),
    ),
    "list": Command(
        _list,
        "list all blobs in the store",
        "[flags] [<filter>, ...]",
        (Flag("quiet q", bool, help="print only the blob digest"),),
    ),
    "label": Command(_label, "add labels to content", "<digest> [<label>=<value> ...]"),
}
