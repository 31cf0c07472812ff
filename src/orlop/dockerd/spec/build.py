# SPDX-License-Identifier: Apache-2.0
"""Builds the OCI specification of a container."""

import os
import shutil

from orlop.dockerd.spec.capabilities import container_capabilities
from orlop.dockerd.spec.devices import container_devices
from orlop.dockerd.spec.modes import container_of
from orlop.dockerd.spec.mountplan import container_mounts, rootfs_propagation
from orlop.dockerd.spec.namespaces import namespaces, sysctls
from orlop.dockerd.spec.process import command_line, console_size, environment, rlimits
from orlop.dockerd.spec.request import SpecRequest
from orlop.dockerd.spec.resources import resources_of
from orlop.dockerd.spec.security import (
    SecurityOptions,
    apparmor_profile,
    container_seccomp,
    security_options,
)
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.defaults import OCI_VERSION, READONLY_PATHS, capability_sets, masked_paths
from orlop.oci.runtime import Linux, Mount, Process, Root, Spec

__all__ = ["build_spec", "command_line", "find_init", "resources_of"]

_INIT_INSIDE = "/sbin/docker-init"


def find_init() -> str:
    """Absolute path of docker-init, or tini, on this host. Raises NotFoundError where there is none."""
    for name in ("docker-init", "tini-static", "tini"):
        if path := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/libexec/docker:/usr/bin"):
            return os.path.abspath(path)
    raise NotFoundError('exec: "docker-init": executable file not found in $PATH')


def build_spec(request: SpecRequest) -> Spec:
    """The specification of a container. Raises InvalidArgumentError with Docker's texts.

    Reads nothing but the host's device nodes named in `host_config.devices` (and /dev when privileged), and the
    mount table where a bind is to be shared.
    """
    config = request.host_config
    options = security_options(config)
    capabilities = container_capabilities(
        config.cap_add, config.cap_drop, config.privileged, request.host.capabilities
    )
    writable_cgroups = config.privileged if options.writable_cgroups is None else options.writable_cgroups
    mounts = container_mounts(request, writable_cgroups)
    arguments = request.args
    if _runs_init(request):
        if not request.init_path:
            raise InvalidArgumentError('exec: "docker-init": executable file not found in $PATH')
        arguments = [_INIT_INSIDE, "--", *arguments]
        mounts.append(
            Mount(destination=_INIT_INSIDE, type="bind", source=request.init_path, options=["bind", "ro"])
        )
    return Spec(
        oci_version=OCI_VERSION,
        process=_process(request, options, capabilities, arguments),
        root=Root(path=request.rootfs, readonly=config.readonly_rootfs),
        hostname="" if config.uts_mode == "host" else request.config.hostname,
        mounts=mounts,
        annotations=dict(config.annotations),
        linux=_linux(request, options, capabilities),
    )


def _process(
    request: SpecRequest, options: SecurityOptions, capabilities: list[str], arguments: list[str]
) -> Process:
    config, host_config = request.config, request.host_config
    forbidden = options.no_new_privileges
    return Process(
        cwd=config.working_dir or "/",
        args=arguments,
        env=environment(config, config.hostname, request.link_env),
        user=request.user,
        terminal=config.tty,
        console_size=console_size(config.tty, host_config.console_size),
        capabilities=capability_sets(capabilities),
        rlimits=rlimits(host_config.ulimits or [], request.default_ulimits),
        no_new_privileges=request.no_new_privileges if forbidden is None else forbidden,
        apparmor_profile=apparmor_profile(options, host_config.privileged, request.host),
        oom_score_adj=host_config.oom_score_adj,
    )


def _linux(request: SpecRequest, options: SecurityOptions, capabilities: list[str]) -> Linux:
    config = request.host_config
    resources = resources_of(config)
    nodes, resources.devices = container_devices(config)
    masked, readonly = _hidden_paths(request, options)
    return Linux(
        sysctl=sysctls(request),
        resources=resources,
        cgroups_path=_cgroups_path(request),
        namespaces=namespaces(request),
        devices=nodes,
        seccomp=container_seccomp(options, config.privileged, request.seccomp_profile, capabilities, request.host),
        rootfs_propagation=rootfs_propagation(request.mounts),
        masked_paths=masked,
        readonly_paths=readonly,
    )


def _hidden_paths(request: SpecRequest, options: SecurityOptions) -> tuple[list[str], list[str]]:
    config = request.host_config
    if options.system_paths_unconfined:
        return [], []
    if config.privileged:
        return config.masked_paths or [], config.readonly_paths or []
    masked = masked_paths(request.host.throttled_cpus) if config.masked_paths is None else config.masked_paths
    readonly = list(READONLY_PATHS) if config.readonly_paths is None else config.readonly_paths
    return masked, readonly


def _runs_init(request: SpecRequest) -> bool:
    mode = request.host_config.pid_mode
    if mode == "host" or container_of(mode) is not None:
        return False
    wanted = request.host_config.init
    return request.default_init if wanted is None else wanted


def _cgroups_path(request: SpecRequest) -> str:
    parent = request.host_config.cgroup_parent or request.cgroup_parent
    if request.systemd_cgroup:
        return f"{parent}:docker:{request.id}"
    return os.path.join(parent, request.id)
