# SPDX-License-Identifier: Apache-2.0
"""Under which names a transfer stores an image: pure rules over the destination's message."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from orlop.containerd.client.archive import ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME
from orlop.containerd.core.labels import GC_EXPIRE

if TYPE_CHECKING:
    from orlop.api.transfer_types_pb2 import ImageReference, ImageStore

GC_BREF_IMAGE = "containerd.io/gc.bref.image"


class Name(NamedTuple):
    """A name for an image, and its labels."""

    name: str
    labels: Mapping[str, str]


def names_of_target(store: ImageStore, digest: str) -> list[Name]:
    """The names for what was pulled, tagged, or is the index of an archive: none if the destination names none.

    References that add the digest do so; a prefix alone names nothing.
    """
    names = [Name(store.name, dict(store.labels))] if store.name else []
    for reference in store.extra_references:
        if reference.add_digest:
            names.append(Name(f"{reference.name}@{digest}", _extra_labels(store)))
        elif not reference.is_prefix:
            names.append(Name(reference.name, _extra_labels(store)))
    return names


def names_of_member(store: ImageStore, annotations: Mapping[str, str], digest: str) -> list[Name]:
    """The names for an image of an archive, from its annotations and the destination's prefixes."""
    names = []
    for reference in store.extra_references:
        if not reference.is_prefix:
            continue
        name = _annotated(reference, annotations)
        if name:
            names.append(Name(name, _extra_labels(store)))
        if reference.add_digest and not (name and reference.skip_named_digest):
            names.append(Name(f"{reference.name}@{digest}", _extra_labels(store)))
    return names


def _extra_labels(store: ImageStore) -> dict[str, str]:
    """An extra name lives as long as the main one, if there is one."""
    labels = dict(store.labels)
    if store.name:
        labels[GC_BREF_IMAGE] = store.name
        labels[GC_EXPIRE] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return labels


def _annotated(reference: ImageReference, annotations: Mapping[str, str]) -> str:
    """The name that the annotations give, as far as the prefix allows it; else nothing."""
    full = annotations.get(ANNOTATION_IMAGE_NAME, "")
    if full:
        # A whole name is taken as it is or not at all.
        return full if _translated(reference, full) == full else ""
    return _translated(reference, annotations.get(ANNOTATION_REF_NAME, ""))


def _translated(reference: ImageReference, name: str) -> str:
    if not name:
        return ""
    if not any(mark in name for mark in "/:@"):
        return f"{reference.name}:{name}"  # a tag alone
    return name if reference.allow_overwrite or has_prefix(name, reference.name) else ""


def has_prefix(name: str, prefix: str) -> bool:
    """Whether a name begins with a prefix, at whole words: `reg.io/a` has `reg.io/a:1`, not `reg.io/ab`."""
    return name.startswith(prefix) and name[len(prefix) : len(prefix) + 1] in ("", "/", ":", "@")
