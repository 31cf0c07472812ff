# SPDX-License-Identifier: Apache-2.0
"""The root filesystem of a container: a plan of mounts and nodes as data, and its executor through descriptors."""
