# SPDX-License-Identifier: Apache-2.0
"""Refuses a container's configuration that cannot work, with Docker's error texts."""

from orlop.dockerd.spec.host import Host
from orlop.engine.types import ContainerConfig, HostConfig


def validate(
    config: ContainerConfig | None, host_config: HostConfig, host: Host, *, update: bool = False
) -> list[str]:
    """Check a container's configuration, at create and (`update=True`, `config` None) at update.

    Returns the warnings for the API's answer. What the kernel does not support is taken out of `host_config`
    in place, as Docker does, with a warning. Raises InvalidArgumentError.
    """
    raise NotImplementedError
