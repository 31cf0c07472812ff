# SPDX-License-Identifier: Apache-2.0
"""`manifest`: look at manifests in registries, and make lists of them; the daemon has no part in it."""

import json
from typing import Any

from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.engine.client import Client

_EXPERIMENTAL = "EXPERIMENTAL: this command may change between releases."
_INSECURE = "Allow communication with an insecure registry"


def _create(client: Client, args: Args) -> int:
    from orlop.cli.manifest_registry import access, manifest
    from orlop.cli.manifest_store import ManifestStore, full

    store = ManifestStore()
    name, *images = (full(text) for text in args.positional)
    if name in store and not args.flag("amend"):
        raise ExitError("refusing to amend an existing manifest list with no --amend flag")
    found = []
    for image in images:
        known = store.find(name, image)
        found.append(known or _run(manifest(image, access(image, insecure=args.flag("insecure")))))
    for one in found:
        store.put(name, one)
    print(f"Created manifest list {name}")
    return 0


def _annotate(client: Client, args: Args) -> int:
    import msgspec

    from orlop.cli.manifest_store import ManifestStore, full
    from orlop.oci.image import Platform

    store = ManifestStore()
    name, image = (full(text) for text in args.positional)
    known = store.find(name, image)
    if known is None:
        raise ExitError(f"manifest for image {args.positional[1]} does not exist in {args.positional[0]}")
    changes: dict[str, Any] = {}
    for flag, field in (
        ("os", "os"),
        ("arch", "architecture"),
        ("variant", "variant"),
        ("os-version", "os_version"),
    ):
        if flag in args.given:
            changes[field] = args.text(flag)
    if "os-features" in args.given:
        changes["os_features"] = tuple(word for text in args.items("os-features") for word in text.split(","))
    platform = msgspec.structs.replace(known.descriptor.platform or Platform(), **changes)
    if not platform.os or not platform.architecture:
        raise ExitError(f"manifest entry for image has unsupported os/arch combination: {platform}")
    store.put(name, known._replace(descriptor=msgspec.structs.replace(known.descriptor, platform=platform)))
    return 0


def _inspect(client: Client, args: Args) -> int:
    from orlop.cli.manifest_registry import access, document, index_of, manifest, members
    from orlop.cli.manifest_store import ManifestStore, full

    store, verbose = ManifestStore(), args.flag("verbose")
    name = full(args.positional[0])
    if len(args.positional) == 2:
        image = full(args.positional[1])
        one = store.find(name, image)
        if one is None:
            one = _run(manifest(image, access(image, insecure=args.flag("insecure"))))
        _print(_verbose(one) if verbose else json.loads(one.raw))
        return 0
    if name in store:
        found = store.manifests(name)
        _print([_verbose(one) for one in found] if verbose else json.loads(index_of(found)[1]))
        return 0
    where = access(name, insecure=args.flag("insecure"))
    if verbose:
        shown = [_verbose(one) for one in _run(members(name, where))]
        _print(shown[0] if len(shown) == 1 else shown)
    else:
        _print(json.loads(_run(document(name, where))[1]))
    return 0


def _verbose(one: Any) -> dict[str, Any]:
    import base64

    import msgspec

    return {
        "Ref": str(one.reference),
        "Descriptor": msgspec.to_builtins(one.descriptor),
        "Raw": base64.b64encode(one.raw).decode(),
        "Manifest": json.loads(one.raw),
    }


def _push(client: Client, args: Args) -> int:
    from orlop.cli.manifest_registry import access, push
    from orlop.cli.manifest_store import ManifestStore, full

    store = ManifestStore()
    name = full(args.positional[0])
    found = store.manifests(name)
    for one in found:
        if one.reference.domain != name.domain:
            raise ExitError(
                "cannot use source images from a different registry than the target image: "
                f"{one.reference.domain} != {name.domain}"
            )
        platform = one.descriptor.platform
        if platform is None or not platform.os or not platform.architecture:
            raise ExitError(
                f"manifest {one.reference} must have an OS and Architecture to be pushed to a registry"
            )
    print(_run(push(name, found, access(name, insecure=args.flag("insecure")))))
    if args.flag("purge"):
        store.remove(name)
    return 0


def _remove(client: Client, args: Args) -> int:
    from orlop.cli.manifest_store import ManifestStore, full

    failures = []
    for text in args.positional:
        try:
            ManifestStore().remove(full(text))
        except ExitError as error:
            failures.append(str(error))
    if failures:
        raise ExitError("\n".join(failures))
    return 0


def _run(work: Any) -> Any:
    import asyncio

    return asyncio.run(work)


def _print(value: Any) -> None:
    print(json.dumps(value, indent="\t", ensure_ascii=False))


CREATE = Command(
    "create MANIFEST_LIST MANIFEST [MANIFEST...]",
    "Create a local manifest list for annotating and pushing to a registry",
    _create,
    flags=[
        Flag("amend", "a", "bool", "Amend an existing manifest list"),
        Flag("insecure", "", "bool", _INSECURE),
    ],
    min_args=2,
    max_args=None,
    long=f"Create a local manifest list for annotating and pushing to a registry\n\n{_EXPERIMENTAL}",
)
ANNOTATE = Command(
    "annotate [OPTIONS] MANIFEST_LIST MANIFEST",
    "Add additional information to a local image manifest",
    _annotate,
    flags=[
        Flag("arch", "", "string", "Set architecture"),
        Flag("os", "", "string", "Set operating system"),
        Flag("os-features", "", "list", "Set operating system feature", shown_kind="strings"),
        Flag("os-version", "", "string", "Set operating system version"),
        Flag("variant", "", "string", "Set architecture variant"),
    ],
    min_args=2,
    max_args=2,
    long=f"Add additional information to a local image manifest\n\n{_EXPERIMENTAL}",
)
INSPECT = Command(
    "inspect [OPTIONS] [MANIFEST_LIST] MANIFEST",
    "Display an image manifest, or manifest list",
    _inspect,
    flags=[
        Flag("insecure", "", "bool", _INSECURE),
        Flag("verbose", "v", "bool", "Output additional info including layers and platform"),
    ],
    min_args=1,
    max_args=2,
    long=f"Display an image manifest, or manifest list\n\n{_EXPERIMENTAL}",
)
PUSH = Command(
    "push [OPTIONS] MANIFEST_LIST",
    "Push a manifest list to a repository",
    _push,
    flags=[
        Flag("insecure", "", "bool", "Allow push to an insecure registry"),
        Flag("purge", "p", "bool", "Remove the local manifest list after push"),
    ],
    min_args=1,
    max_args=1,
    long=f"Push a manifest list to a repository\n\n{_EXPERIMENTAL}",
)
REMOVE = Command(
    "rm MANIFEST_LIST [MANIFEST_LIST...]",
    "Delete one or more manifest lists from local storage",
    _remove,
    min_args=1,
    max_args=None,
    long=f"Delete one or more manifest lists from local storage\n\n{_EXPERIMENTAL}",
)
