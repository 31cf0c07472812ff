# SPDX-License-Identifier: Apache-2.0
"""orlop-netd: holds published ports, carries what the kernel does not redirect, and serves containers' DNS."""
