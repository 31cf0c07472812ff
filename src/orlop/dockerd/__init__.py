# SPDX-License-Identifier: Apache-2.0
"""dockerd: the Engine API on top of containerd."""
