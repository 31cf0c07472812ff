# SPDX-License-Identifier: Apache-2.0
"""orlopd: the Docker Engine API over containerd."""
