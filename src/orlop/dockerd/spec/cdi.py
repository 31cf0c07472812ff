# SPDX-License-Identifier: Apache-2.0
"""What a container's requests for devices mean in names of the Container Device Interface."""

from collections.abc import Sequence

from orlop.engine.types import DeviceRequest
from orlop.errdefs import InvalidArgumentError
from orlop.oci.cdi import Registry

DRIVER = "cdi"


def requested(requests: Sequence[DeviceRequest], registry: Registry) -> list[str]:
    """The qualified names that a container's requests mean. Raises InvalidArgumentError for any other driver.

    A request for GPUs without a driver is one for NVIDIA's, where a file describes them.
    """
    names: list[str] = []
    for request in requests:
        if request.driver == DRIVER and registry.enabled:
            names += request.device_ids
            continue
        wants_gpu = any("gpu" in group for group in request.capabilities)
        gpus = _gpus(request, registry) if wants_gpu and request.driver in ("", "nvidia") else []
        if not gpus:
            capabilities = " ".join(f"[{' '.join(group)}]" for group in request.capabilities)
            raise InvalidArgumentError(
                f'could not select device driver "{request.driver}" with capabilities: [{capabilities}]'
            )
        names += gpus
    return names


def _gpus(request: DeviceRequest, registry: Registry) -> list[str]:
    if request.device_ids:
        return registry.gpus(request.device_ids)
    return registry.gpus(["all"] if request.count < 0 else [str(number) for number in range(request.count)])
