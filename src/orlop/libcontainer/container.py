# SPDX-License-Identifier: Apache-2.0
"""A container as its runtime sees it: a handle that can also be made, started and entered."""

import builtins
import os
from collections.abc import Callable

from orlop import cgroups
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    OrlopError,
    PermissionDeniedError,
)
from orlop.libcontainer import holdings, parent, prepare
from orlop.libcontainer.creation import launch
from orlop.libcontainer.errors import explain
from orlop.libcontainer.facts import NOTIFY_DIRECTORY, facts_of, validate_id
from orlop.libcontainer.handle import Handle
from orlop.libcontainer.journal import debug, warn
from orlop.libcontainer.options import (
    CheckpointOptions,
    CreateOptions,
    ExecOptions,
    ExecResult,
    RestoreOptions,
)
from orlop.libcontainer.rootless import lacks_control_groups, unprivileged, validate_rootless
from orlop.libcontainer.state import Record, seccomp_state, timestamp, write_record
from orlop.libcontainer.sync import Conversation, at_once
from orlop.libcontainer.validate import validate_process, validate_spec
from orlop.oci.runtime import Mount, Process, Spec


class Container(Handle):
    """One container; make it with `create`, `load` or `list`.

    Every method acts on the kernel and on `<root>/<id>/`; the object holds nothing that another process could not
    read from there, but `init_pidfd` and, after `create` with a terminal, `console`.
    """

    # -- creating ---------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        root: str,
        container_id: str,
        bundle: str,
        spec: Spec,
        options: CreateOptions,
        launcher: "Callable[[Container, CreateOptions], None] | None" = None,
    ) -> "Container":
        """Make a container whose init, a child of the caller, waits for `start`.

        The caller has one thread only. Raises AlreadyExistsError, InvalidArgumentError and what else keeps the
        process from being set up, with nothing left behind; the text goes after `runc create failed: `.
        """
        validate_id(container_id)
        validate_spec(spec, bundle)
        assert spec.linux is not None and spec.process is not None
        rootless = lacks_control_groups() if options.rootless is None else options.rootless
        rootless = rootless or options.no_cgroup
        if unprivileged():
            validate_rootless(spec)
        cgroup = _control_groups(spec, container_id, options, rootless=rootless)
        record = Record(
            id=container_id,
            bundle=bundle,
            spec=spec,
            created=timestamp(),
            cgroup_paths=cgroup.paths(),
            systemd_cgroup=options.systemd_cgroup,
            keyring="" if options.no_new_keyring else f"_ses.{container_id}",
            owner=os.geteuid(),
        )
        container = cls(root, facts_of(record), record)
        container._cgroup = cgroup
        container._make_directory(options)
        made_cgroup = False
        try:
            # Written before anything is made, so that what a crash leaves behind can be deleted.
            write_record(container.directory, record)
            cgroup.create()
            made_cgroup = True
            debug(
                f"{container_id}: control groups {' '.join(sorted(set(record.cgroup_paths.values()))) or 'none'}"
            )
            if rootless:
                cgroups.apply_rootless(cgroup, prepare.effective_resources(spec.linux))
            else:
                cgroup.apply(prepare.effective_resources(spec.linux))
            holdings.acquire(container.directory, record)
            (launcher or launch)(container, options)
            cgroup.settle()
        except BaseException as error:
            container._discard(made_cgroup)
            if isinstance(error, OSError):
                raise InternalError(f"unable to start container process: {explain(error)}") from error
            if isinstance(error, OrlopError):
                raise type(error)(f"unable to start container process: {error}") from error
            raise
        return container

    def _make_directory(self, options: CreateOptions) -> None:
        try:
            os.makedirs(os.path.dirname(self.directory), mode=0o700, exist_ok=True)
            os.mkdir(self.directory, 0o711)
            if options.notify_directory:
                os.mkdir(f"{self.directory}/{NOTIFY_DIRECTORY}", 0o755)
        except FileExistsError:
            raise AlreadyExistsError("container with given ID already exists") from None
        except PermissionError as error:
            raise PermissionDeniedError(f"cannot keep the container's state: {explain(error)}") from None

    @classmethod
    def restore(
        cls,
        root: str,
        container_id: str,
        bundle: str,
        spec: Spec,
        options: CreateOptions,
        images: RestoreOptions,
    ) -> "Container":
        """Make a container that goes on where its checkpoint left off, its init a child of the caller.

        Raises what create does, and FailedPreconditionError where there is no criu(8).
        """
        from orlop.libcontainer.criu.restore import restore

        def launcher(container: "Container", options: CreateOptions) -> None:
            restore(container, options, images)

        return cls.create(root, container_id, bundle, spec, options, launcher)

    def checkpoint(self, options: CheckpointOptions) -> None:
        """Write the container to a directory of images; it has ended then, unless that leaves it running.

        Raises FailedPreconditionError (not running, no criu(8)), InvalidArgumentError, InternalError.
        """
        status = self.status()
        if status not in ("running", "paused"):
            raise FailedPreconditionError(f"container cannot be checkpointed in {status} state")
        from orlop.libcontainer.criu.dump import dump

        dump(self, options)

    def _discard(self, made_cgroup: bool) -> None:
        """Take back what a failed create has made; a control group that was in use is somebody else's."""
        if self.console is not None:
            os.close(self.console)
            self.console = None
        if made_cgroup:
            try:
                self.manager().destroy()
            except (OSError, OrlopError) as error:
                warn(f"control groups of {self.id} remain: {explain(error)}")
        holdings.release(self.record)
        self._remove_directory()

    # -- further processes ------------------------------------------------------------------------

    def exec(self, process: Process, options: ExecOptions) -> ExecResult:
        """Run another process in the container: a child of the caller, which has one thread only.

        Returns when the program runs. Raises FailedPreconditionError when the container is not running, and what
        keeps the program from running; the text goes after `exec failed: `.
        """
        return at_once(self.exec_in_steps(process, options))

    def exec_in_steps(self, process: Process, options: ExecOptions) -> Conversation[ExecResult]:
        """The same as a generator, for callers with a loop: it yields a descriptor wherever it has to wait, to be
        resumed when that can be read. Closing it early ends the process.
        """
        status = self.status()
        if status == "stopped":
            raise FailedPreconditionError("cannot exec in a stopped container")
        if status == "paused" and not options.ignore_paused:
            raise FailedPreconditionError("cannot exec in a paused container")
        from orlop.libcontainer.entering import enter

        try:
            validate_process(process)
            return (yield from enter(self, process, options))
        except OSError as error:
            raise InternalError(f"unable to start container process: {explain(error)}") from error
        except OrlopError as error:
            raise type(error)(f"unable to start container process: {error}") from error

    def hand_on_seccomp(self, pid: int, listener: int) -> None:
        """Give the seccomp listener to the agent of the spec, with the state of the process it is for."""
        linux = self.record.spec.linux
        assert linux is not None and linux.seccomp is not None
        status = "running" if self.init_pid else "creating"
        state = seccomp_state(pid, linux.seccomp.listener_metadata, self.oci_state(status, self.init_pid or pid))
        parent.send_descriptor(linux.seccomp.listener_path, state, listener)

    def add_mounts(self, mounts: builtins.list[Mount]) -> None:
        """Add mounts to a running container, all or none of them.

        Raises FailedPreconditionError when it has stopped, InvalidArgumentError naming the mount.
        """
        self._require_process()
        from orlop.libcontainer.live_mounts import add

        add(self, mounts)

    def remove_mounts(self, mounts: builtins.list[Mount]) -> None:
        """Take mounts off again, by their destinations, the last one first. Raises FailedPreconditionError."""
        self._require_process()
        from orlop.libcontainer.live_mounts import remove

        remove(self, mounts)

    def _require_process(self) -> None:
        if self.status() in ("stopped", "creating"):
            raise FailedPreconditionError("container not running")


def _control_groups(spec: Spec, container_id: str, options: CreateOptions, *, rootless: bool) -> cgroups.Manager:
    """The groups that the spec names, or our choice; as many as a user may make where that is all there is."""
    path = spec.linux.cgroups_path if spec.linux else ""
    if options.no_cgroup:
        return cgroups.load_manager({})
    if rootless and not path and not options.systemd_cgroup:
        return cgroups.load_manager(cgroups.permitted(cgroups.rootless_paths(container_id)))
    default = f":orlop:{container_id}" if options.systemd_cgroup else f"/orlop/{container_id}"
    return cgroups.new_manager(path or default, options.systemd_cgroup, spec.annotations)
