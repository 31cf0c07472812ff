# SPDX-License-Identifier: Apache-2.0
"""Containers of an ordinary user: what has to hold of their spec, and mapping ids by newuidmap(1)."""

import os

from orlop.errdefs import FailedPreconditionError, InvalidArgumentError
from orlop.libcontainer.errors import explain
from orlop.oci.runtime import IDMapping, Linux, Spec
from orlop.unix.process import in_user_namespace


def unprivileged() -> bool:
    """Whether this process is not root, not even of a user namespace."""
    return os.geteuid() != 0


def lacks_control_groups() -> bool:
    """Whether control groups are likely to belong to somebody else, so that having none is no error."""
    return unprivileged() or in_user_namespace()


def validate_rootless(spec: Spec) -> None:
    """What a user without privileges can ask for. Raises InvalidArgumentError."""
    linux = spec.linux
    assert linux is not None
    user = next((entry for entry in linux.namespaces if entry.type == "user"), None)
    if user is None:
        raise InvalidArgumentError("linux.namespaces: rootless container requires user namespaces")
    if linux.net_devices:
        raise InvalidArgumentError("linux.netDevices: network devices are not supported for rootless containers")
    for entry in spec.mounts:
        if entry.uid_mappings or entry.gid_mappings or {"idmap", "ridmap"} & set(entry.options):
            raise InvalidArgumentError(
                f"mounts: {entry.destination}: id-mapped mounts are not supported for rootless containers"
            )
        if not user.path:
            for option in entry.options:
                _validate_id_option(option, linux)
    if (
        spec.process is not None
        and spec.process.user.additional_gids
        and not _needs_tool(linux.gid_mappings, os.getegid())
    ):
        raise InvalidArgumentError(
            "process.user.additionalGids: cannot set any additional groups in a rootless container"
            " that maps no other group than the caller's"
        )


def _validate_id_option(option: str, linux: Linux) -> None:
    name, _, value = option.partition("=")
    if name not in ("uid", "gid") or not (value.isascii() and value.isdigit()):
        return
    mappings = linux.uid_mappings if name == "uid" else linux.gid_mappings
    if not any(m.container_id <= int(value) < m.container_id + m.size for m in mappings):
        raise InvalidArgumentError(
            f"mounts: cannot specify {option} mount option for rootless container: no mapping for {name} {value}"
        )


def map_ids(pid: int, uids: list[IDMapping], gids: list[IDMapping]) -> None:
    """Give the user namespace of `pid` its mappings, by newuidmap and newgidmap where more than the caller's own
    id is mapped. Raises InvalidArgumentError, FailedPreconditionError where the tools are missing.
    """
    if not _needs_tool(gids, os.getegid()):
        # The kernel takes a group mapping from a user only once groups cannot be given up (user_namespaces(7)).
        _write(f"/proc/{pid}/setgroups", "deny")
    for kind, mappings, own in (("uid", uids, os.geteuid()), ("gid", gids, os.getegid())):
        if _needs_tool(mappings, own):
            _run_tool(f"new{kind}map", kind, pid, mappings)
            continue
        try:
            _write(f"/proc/{pid}/{kind}_map", f"{mappings[0].container_id} {own} 1\n")
        except OSError as error:
            raise InvalidArgumentError(f"linux.{kind}Mappings: {explain(error)}") from error


def _needs_tool(mappings: list[IDMapping], own: int) -> bool:
    return not (len(mappings) == 1 and mappings[0].size == 1 and mappings[0].host_id == own)


def _run_tool(tool: str, kind: str, pid: int, mappings: list[IDMapping]) -> None:
    words = [str(number) for m in mappings for number in (m.container_id, m.host_id, m.size)]
    reader, writer = os.pipe()
    try:
        child = os.posix_spawnp(
            tool,
            [tool, str(pid), *words],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)],
            setsigmask=[],
        )
    except OSError as error:
        os.close(reader)
        raise FailedPreconditionError(
            f"linux.{kind}Mappings: mapping other ids takes {tool} (package uidmap): {explain(error)}"
        ) from error
    finally:
        os.close(writer)
    with open(reader, "rb", buffering=0) as file:
        said = file.readall().decode(errors="replace").strip()
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise InvalidArgumentError(f"linux.{kind}Mappings: {said or f'{tool} failed'} (see subuid(5), subgid(5))")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
