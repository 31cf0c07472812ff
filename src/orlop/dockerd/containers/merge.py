# SPDX-License-Identifier: Apache-2.0
"""A container's configuration out of the request and the image's defaults: pure."""

import msgspec

from orlop.engine.types import ContainerConfig, HealthConfig
from orlop.oci.image import ImageConfig


def merge(config: ContainerConfig, image: ImageConfig) -> ContainerConfig:
    """A copy of the request's configuration with what it leaves open taken from the image, by Docker's rules."""
    merged = msgspec.structs.replace(config, cmd=_as_list(config.cmd), entrypoint=_as_list(config.entrypoint))
    merged.user = config.user or image.user
    merged.exposed_ports = {**image.exposed_ports, **config.exposed_ports}
    merged.env = _merge_env(config.env, image.env)
    merged.labels = {**image.labels, **config.labels}
    if not merged.entrypoint:
        if not merged.cmd:
            merged.cmd = image.cmd
            merged.args_escaped = image.args_escaped
        if merged.entrypoint is None:
            merged.entrypoint = image.entrypoint
    if merged.entrypoint in ([], [""]):
        merged.entrypoint = None
    merged.working_dir = config.working_dir or image.working_dir
    merged.stop_signal = config.stop_signal or image.stop_signal
    merged.volumes = {**image.volumes, **config.volumes}
    merged.shell = config.shell or image.shell
    if image.healthcheck is not None:
        merged.healthcheck = _merge_health(config.healthcheck, image.healthcheck)
    return merged


def _as_list(value: list[str] | str | None) -> list[str] | None:
    return [value] if isinstance(value, str) else value


def _merge_env(asked: list[str], image: list[str]) -> list[str]:
    names = {entry.partition("=")[0] for entry in asked}
    return asked + [entry for entry in image if entry.partition("=")[0] not in names]


def _merge_health(asked: HealthConfig | None, image: HealthConfig | object) -> HealthConfig:
    defaults = msgspec.convert(image, HealthConfig, from_attributes=True)
    if asked is None:
        return defaults
    for field in ("test", "interval", "timeout", "start_period", "start_interval", "retries"):
        if not getattr(asked, field):
            setattr(asked, field, getattr(defaults, field))
    return asked
