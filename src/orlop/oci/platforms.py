# SPDX-License-Identifier: Apache-2.0
"""Platforms of images: reading them, the host's own, and which manifest of an index serves one best."""

import os
import re

from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.image import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Index, Platform

_ARCHITECTURES = {
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_KNOWN_ARCHITECTURES = frozenset(
    """386 amd64 amd64p32 arm armbe arm64 arm64be loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le
    ppc ppc64 ppc64le riscv riscv64 s390 s390x sparc sparc64 wasm""".split()  # noqa: SIM905
)
_KNOWN_OS = frozenset(
    """aix android darwin dragonfly freebsd illumos ios js linux nacl netbsd openbsd plan9 solaris windows
    zos""".split()  # noqa: SIM905
)


def normalize_platform(platform: Platform) -> Platform:
    """A platform under its usual names: x86_64 is amd64, arm64 without variant is v8's, arm without one is v7."""
    system = platform.os.lower()
    system = {"macos": "darwin", "": "linux"}.get(system, system)
    architecture = platform.architecture.lower()
    variant = platform.variant.lower()
    if architecture in _ARCHITECTURES:
        architecture, implied = _ARCHITECTURES[architecture]
        variant = variant or implied
    if architecture == "arm64" and variant in ("8", "v8", "v8.0", "8.0"):
        variant = ""
    if architecture == "amd64" and variant == "v1":
        variant = ""
    if architecture == "arm":
        variant = {"": "v7", "7": "v7", "6": "v6", "5": "v5", "8": "v8"}.get(variant, variant)
    return Platform(
        os=system,
        architecture=architecture,
        variant=variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def parse_platform(text: str) -> Platform:
    """Read `--platform` text: `linux/arm/v7`, `linux/amd64`, or one of the two parts alone.

    Raises InvalidArgumentError that names the text.
    """
    parts = text.strip().lower().split("/")
    if not text or len(parts) > 3 or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
        raise InvalidArgumentError(
            f'platform "{text}": want os, architecture, os/architecture or os/architecture/variant'
        )
    host = host_platform()
    if len(parts) == 1:
        if parts[0] in _KNOWN_OS or parts[0] == "macos":
            return normalize_platform(Platform(os=parts[0], architecture=host.architecture, variant=host.variant))
        architecture = normalize_platform(Platform(architecture=parts[0]))
        if architecture.architecture not in _KNOWN_ARCHITECTURES:
            raise InvalidArgumentError(f'"{text}": unknown operating system or architecture: invalid argument')
        return architecture
    return normalize_platform(
        Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "")
    )


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    variant = {"armv7l": "v7", "armv6l": "v6", "armv8l": "v8"}.get(machine, "")
    return normalize_platform(Platform(os="linux", architecture="arm" if variant else machine, variant=variant))


def platform_rank(wanted: Platform, offered: Platform) -> int | None:
    """How well `offered` serves `wanted`: 0 best, larger worse, None not at all.

    An arm machine of a version runs what was made for an older one, and so does amd64 with its levels.
    """
    wanted, offered = normalize_platform(wanted), normalize_platform(offered)
    if wanted.os != offered.os:
        return None
    if wanted.architecture == offered.architecture:
        if wanted.variant == offered.variant:
            return 0
        if wanted.architecture in ("arm", "amd64"):
            has, needs = _level(wanted), _level(offered)
            return has - needs if has is not None and needs is not None and has >= needs else None
        return 1 if not wanted.variant or not offered.variant else None
    return None


def _level(platform: Platform) -> int | None:
    text = platform.variant.removeprefix("v")
    if platform.architecture == "amd64" and not text:
        return 1
    return int(text) if text.isascii() and text.isdigit() else None


def select_manifest(index: Index, wanted: Platform) -> Descriptor:
    """The manifest of an index that serves a platform best; the first of equals, as clients of Docker take it.

    Raises NotFoundError in Docker's words.
    """
    best: Descriptor | None = None
    best_rank = -1
    for descriptor in index.manifests:
        if descriptor.media_type not in MANIFEST_TYPES | INDEX_TYPES:
            continue
        if descriptor.annotations.get("vnd.docker.reference.type"):
            continue  # attestations of BuildKit, of no platform
        platform = descriptor.platform
        rank = platform_rank(wanted, platform) if platform else 100
        if rank is not None and (best is None or rank < best_rank):
            best, best_rank = descriptor, rank
    if best is None:
        raise NotFoundError(f"no matching manifest for {wanted} in the manifest list entries: not found")
    return best
