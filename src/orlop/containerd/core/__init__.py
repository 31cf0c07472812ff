# SPDX-License-Identifier: Apache-2.0
"""Contracts of the daemon's parts: Protocols with their vocabulary."""
