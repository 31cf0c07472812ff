# SPDX-License-Identifier: Apache-2.0
"""The facts about this host that a container's specification depends on, read once a daemon."""

import msgspec

from orlop.errdefs import NotImplementedByUsError


class Host(msgspec.Struct, kw_only=True, frozen=True):
    """What kernel and cgroups support. The defaults are a modern host on which everything works (for tests)."""

    cgroup_v2: bool = True

    @classmethod
    def probe(cls) -> "Host":
        """Read the facts of the running kernel."""
        raise NotImplementedByUsError("host facts are not read yet")
