# SPDX-License-Identifier: Apache-2.0
"""Images under the names that other people's suites want, made of programs of this machine: no registry is needed.

python()    Debian's Python 3 with its standard library, over busybox
registry()  Debian's docker-registry, as registry:2 is configured
hello()     says what hello-world says
web()       busybox's httpd, where nginx is wanted
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import msgspec
from support.images import busybox

from orlop.codec import decode, encode
from orlop.oci.build import BuiltImage, LayerBuilder, build_image
from orlop.oci.busybox import PATH
from orlop.oci.image import Descriptor, Image, ImageConfig, Manifest, digest_of

_GREETING = "Hello from Docker!\\nThis message shows that your installation appears to be working correctly.\\n"
_REGISTRY = b"""version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: true
http:
  addr: :5000
"""
_ENTRYPOINT = b"""#!/bin/sh
case "$1" in *.yaml|*.yml) set -- registry serve "$@" ;; serve|garbage-collect) set -- registry "$@" ;; esac
exec "$@"
"""


@cache
def python(version: str) -> BuiltImage:
    """`version` is only told apart by an environment variable: the machine has one Python."""
    layer = LayerBuilder()
    program = os.path.realpath("/usr/bin/python3")
    library = Path(sysconfig.get_path("stdlib"))
    _programs(layer, program, *map(str, sorted(library.glob("lib-dynload/*.so"))))
    layer.symlink("usr/bin/python3", program)
    layer.symlink("usr/bin/python", program)
    for path in sorted(library.rglob("*.py")):
        layer.file(str(path.relative_to("/")), path.read_bytes())
    return _over_busybox(layer, ImageConfig(env=[PATH, f"PYTHON_VERSION={version}"], cmd=["python3"]))


@cache
def registry() -> BuiltImage:
    """The program under the name and with the configuration that the official image has."""
    layer = LayerBuilder()
    _programs(layer, "/usr/bin/docker-registry")
    layer.symlink("bin/registry", "/usr/bin/docker-registry")
    layer.file("etc/docker/registry/config.yml", _REGISTRY)
    layer.file("entrypoint.sh", _ENTRYPOINT, 0o755)
    config = ImageConfig(
        env=[PATH, "OTEL_TRACES_EXPORTER=none"],
        entrypoint=["/entrypoint.sh"],
        cmd=["/etc/docker/registry/config.yml"],
        exposed_ports={"5000/tcp": {}},
        volumes={"/var/lib/registry": {}},
    )
    return _over_busybox(layer, config)


@cache
def hello() -> BuiltImage:
    """One line after the other, and an end."""
    return _over_busybox(LayerBuilder(), ImageConfig(env=[PATH], cmd=["printf", _GREETING]))


@cache
def web() -> BuiltImage:
    """A page at port 80."""
    layer = LayerBuilder()
    layer.file("www/index.html", b"<html><body><h1>Welcome to nginx!</h1></body></html>\n")
    config = ImageConfig(
        env=[PATH], cmd=["httpd", "-f", "-v", "-p", "80", "-h", "/www"], exposed_ports={"80/tcp": {}}
    )
    return _over_busybox(layer, config)


def _programs(layer: LayerBuilder, *paths: str) -> None:
    """Files with the shared libraries that they are linked with, each once."""
    wanted = set(paths)
    for path in paths:
        listed = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
        wanted.update(re.findall(r"(/\S+) \(0x", listed))
    for path in sorted(wanted):
        layer.file(path.lstrip("/"), Path(path).read_bytes(), 0o755)


def _over_busybox(layer: LayerBuilder, config: ImageConfig) -> BuiltImage:
    below = busybox()
    manifest = decode(below.blobs[below.target.digest], Manifest)
    image = decode(below.blobs[manifest.config.digest], Image)
    top = build_image([layer.finish()], config)
    top_manifest = decode(top.blobs[top.target.digest], Manifest)
    top_image = decode(top.blobs[top_manifest.config.digest], Image)
    top_image.rootfs.diff_ids = [*image.rootfs.diff_ids, *top_image.rootfs.diff_ids]
    top_image.history = [*image.history, *top_image.history]
    raw_config = encode(top_image)
    whole = msgspec.structs.replace(
        top_manifest,
        config=Descriptor(
            media_type=top_manifest.config.media_type, digest=digest_of(raw_config), size=len(raw_config)
        ),
        layers=[*manifest.layers, *top_manifest.layers],
    )
    raw = encode(whole)
    blobs = {**below.blobs, **top.blobs, digest_of(raw_config): raw_config, digest_of(raw): raw}
    for stale in (below.target.digest, manifest.config.digest, top.target.digest, top_manifest.config.digest):
        blobs.pop(stale, None)
    target = msgspec.structs.replace(top.target, digest=digest_of(raw), size=len(raw))
    return BuiltImage(target, blobs, top_image)
