# SPDX-License-Identifier: Apache-2.0
"""Reads a container's root filesystem without mounting it anywhere, and resolves users in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from orlop.oci.runtime import User


class SnapshotMount(Protocol):
    """A mount of a snapshot, as containerd.client returns it."""

    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def options(self) -> Sequence[str]: ...


@contextmanager
def opened(mounts: Sequence[SnapshotMount]) -> Iterator[int]:
    """A directory descriptor of the root filesystem that these mounts make up, read-only, detached.

    Nothing appears in any mount table; closing the descriptor ends it. Raises OSError where the kernel refuses.
    """
    raise NotImplementedError
    yield -1


def needs_rootfs(user: str, group_add: Sequence[str] | None) -> bool:
    """Whether resolving the user has to read the image: False for no user or root's id, without groups by name.

    Where it is False, `resolve_user(None, user, group_add)` works.
    """
    raise NotImplementedError


def resolve_user(root: int | None, user: str, group_add: Sequence[str] | None = None) -> User:
    """Turn `user[:group]` (names or ids) into ids by /etc/passwd and /etc/group in the container.

    `root` is a directory descriptor of the container's root. `additional_gids` holds the primary gid first.
    Raises InvalidArgumentError `unable to find user foo: no matching entries in passwd file`.
    """
    raise NotImplementedError
