# SPDX-License-Identifier: Apache-2.0
"""orlop-ctr, the debugging client of containerd."""
