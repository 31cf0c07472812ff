# SPDX-License-Identifier: Apache-2.0
"""AppArmor's profile docker-default, for containers that name none."""

import logging
import os

from orlop.errdefs import OrlopError
from orlop.oci import apparmor

log = logging.getLogger("orlop.dockerd")


def provide_default_profile() -> None:
    """Load docker-default where the kernel runs AppArmor and does not have it.

    Where that fails containers run without a profile, and the log says so.
    """
    if not os.path.exists(apparmor.PROFILES):
        return
    try:
        apparmor.load_profile(apparmor.DEFAULT_PROFILE)
    except (OSError, OrlopError) as error:
        log.warning("%s; containers are not confined by it", error)
