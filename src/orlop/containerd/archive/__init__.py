# SPDX-License-Identifier: Apache-2.0
"""Layers as tar streams: reading, applying to a directory, and making from a difference."""
