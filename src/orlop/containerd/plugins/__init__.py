# SPDX-License-Identifier: Apache-2.0
"""Implementations of the contracts in core."""
