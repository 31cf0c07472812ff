# SPDX-License-Identifier: Apache-2.0
"""Labels, the string pairs on every object of the API: limits, and updates by field mask.

A label with an empty value does not exist: setting it to that removes it.
"""

from collections.abc import Mapping, Sequence

from orlop.errdefs import InvalidArgumentError

MAX_SIZE = 4096  # bytes of key and value together
GC_ROOT = "containerd.io/gc.root"
GC_EXPIRE = "containerd.io/gc.expire"
GC_FLAT = "containerd.io/gc.flat"


def validate(labels: Mapping[str, str]) -> None:
    """Raises InvalidArgumentError that names the key of a label that is too large."""
    for key, value in labels.items():
        size = len(key.encode()) + len(value.encode())
        if size > MAX_SIZE:
            raise InvalidArgumentError(
                f"label key and value length ({size} bytes) greater than maximum size ({MAX_SIZE} bytes), "
                f"key: {key[:64]}"
            )


def checked(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that come to exist; raises as `validate`."""
    validate(labels)
    return {key: value for key, value in labels.items() if value}


def update(
    what: str, stored: Mapping[str, str], wanted: Mapping[str, str], paths: Sequence[str]
) -> dict[str, str]:
    """The labels after an update with the field mask `paths`: `labels` replaces all, `labels.<key>` one.

    An empty mask replaces all. Raises InvalidArgumentError for another path, naming `what`, or for labels that are
    too large.
    """
    labels = dict(stored)
    for path in paths or ("labels",):
        if path == "labels":
            labels = dict(wanted)
        elif path.startswith("labels."):
            key = path.removeprefix("labels.")
            labels[key] = wanted.get(key, "")
        else:
            raise InvalidArgumentError(f'cannot update "{path}" field on {what}')
    return checked(labels)
