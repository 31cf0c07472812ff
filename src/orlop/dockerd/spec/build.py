# SPDX-License-Identifier: Apache-2.0
"""Builds the OCI specification of a container."""

from orlop.dockerd.spec.request import SpecRequest
from orlop.engine.types import ContainerConfig, HostConfig
from orlop.oci.runtime import Resources, Spec


def command_line(config: ContainerConfig) -> list[str]:
    """Entrypoint and command as one argument vector. Raises InvalidArgumentError `no command specified`."""
    raise NotImplementedError


def find_init() -> str:
    """Absolute path of docker-init, or tini, on this host. Raises NotFoundError where there is none."""
    raise NotImplementedError


def resources_of(host_config: HostConfig) -> Resources:
    """The cgroup limits alone, without device rules, for POST /containers/{id}/update."""
    raise NotImplementedError


def build_spec(request: SpecRequest) -> Spec:
    """The specification of a container. Raises InvalidArgumentError with Docker's texts.

    Reads nothing but the host's device nodes named in `host_config.devices` (and /dev when privileged).
    """
    raise NotImplementedError
