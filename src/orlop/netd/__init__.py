# SPDX-License-Identifier: Apache-2.0
"""orlop-netd: holds published ports and carries the traffic that the kernel does not redirect."""
