# SPDX-License-Identifier: Apache-2.0
"""Turns on the kernel's forwarding for containers, and for nobody else.

A machine that was no router is none afterwards: where we turn it on, what is forwarded is dropped by the policy of
iptables' FORWARD chain unless a rule in there accepts it, as Docker does it. There others (libvirt, docker.io's
dockerd, an administrator) can have their say, and our bridges get their rules like beside any firewall.
"""

import errno
import logging

from orlop.dockerd.network.explanations import explain
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.netns import set_sysctl
from orlop.dockerd.network.types import NetworkConfig
from orlop.errdefs import InternalError

_log = logging.getLogger(__name__)

_SETTINGS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_DROP = """\
add table {family} filter
add chain {family} filter FORWARD {{ type filter hook forward priority 0; policy drop; }}
"""


def enable(kernel: Kernel, version: int, config: NetworkConfig) -> None:
    """Have packets of a family (4, 6) forwarded. Raises OSError, InternalError where rules cannot be had."""
    setting = _SETTINGS[version]
    try:
        with open(f"/proc/sys/{setting}", encoding="ascii") as file:
            if file.read().strip() == "1":
                return
    except FileNotFoundError:  # a kernel without that family
        return
    ours = config.iptables and (version == 4 or config.ip6tables)
    if ours and not config.ip_forward_no_drop:
        family = "ip" if version == 4 else "ip6"
        try:
            kernel.nft.run(_DROP.format(family=family))
        except OSError as error:
            raise InternalError(f"cannot install the firewall rules: {explain(error)}") from None
        _log.info("turning on forwarding (IPv%d), with the policy drop for what is not containers'", version)
    if not set_sysctl(setting, "1"):
        raise OSError(errno.ENOENT, "the kernel forwards nothing", setting)
