# SPDX-License-Identifier: Apache-2.0
"""Manifest lists that are being made, kept below ~/.docker/manifests as Docker's command keeps them.

`<list>/<image>` is JSON: `Ref`, `Descriptor` (with its platform), `Raw` (the manifest, base64).
"""

import base64
import json
import os
import shutil
from typing import NamedTuple

import msgspec

from orlop.cli.errors import ExitError
from orlop.engine.credentials import config_path
from orlop.oci.image import OCI_MANIFEST, Descriptor
from orlop.oci.reference import Reference, parse


class StoredManifest(NamedTuple):
    """An image's manifest as a list has it: the descriptor with the platform that it shall have there."""

    reference: Reference
    descriptor: Descriptor
    raw: bytes


class ManifestStore:
    """The lists of a user."""

    def __init__(self) -> None:
        self._base = os.path.join(os.path.dirname(config_path()), "manifests")

    def __contains__(self, name: Reference) -> bool:
        return os.path.isdir(self._directory(name))

    def manifests(self, name: Reference) -> list[StoredManifest]:
        """What is in a list, in the order of names. Raises ExitError for no such list."""
        directory = self._directory(name)
        if not os.path.isdir(directory):
            raise ExitError(f"No such manifest: {name}")
        return [_read(f"{directory}/{entry}") for entry in sorted(os.listdir(directory)) if entry[0] != "."]

    def find(self, name: Reference, image: Reference) -> StoredManifest | None:
        """An image's manifest in a list."""
        path = f"{self._directory(name)}/{_safe(image)}"
        return _read(path) if os.path.exists(path) else None

    def put(self, name: Reference, manifest: StoredManifest) -> None:
        """Keep a manifest in a list. Raises ExitError."""
        directory = self._directory(name)
        document = {
            "Ref": str(manifest.reference),
            "Descriptor": msgspec.to_builtins(manifest.descriptor),
            "Raw": base64.b64encode(manifest.raw).decode(),
            _kind(manifest.descriptor): json.loads(manifest.raw),
        }
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            path = f"{directory}/{_safe(manifest.reference)}"
            draft = f"{directory}/.{os.getpid()}"
            with open(draft, "w", encoding="utf-8") as file:
                json.dump(document, file)
            os.replace(draft, path)
        except OSError as error:
            raise ExitError(f"{directory}: {error.strerror}") from None

    def remove(self, name: Reference) -> None:
        """Forget a list. Raises ExitError."""
        if name not in self:
            raise ExitError(f"No such manifest: {name}")
        shutil.rmtree(self._directory(name))

    def _directory(self, name: Reference) -> str:
        return os.path.join(self._base, _safe(name))


def full(text: str) -> Reference:
    """A reference with its tag. Raises InvalidArgumentError."""
    return parse(text).tagged()


def _kind(descriptor: Descriptor) -> str:
    return "OCIManifest" if descriptor.media_type == OCI_MANIFEST else "SchemaV2Manifest"


def _safe(reference: Reference) -> str:
    return str(reference).replace(":", "-").replace("/", "_")


def _read(path: str) -> StoredManifest:
    try:
        with open(path, "rb") as file:
            document = json.load(file)
        descriptor = msgspec.convert(document["Descriptor"], Descriptor)
        return StoredManifest(parse(document["Ref"]), descriptor, base64.b64decode(document["Raw"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExitError(f"{path}: {error}") from None
