# SPDX-License-Identifier: Apache-2.0
"""orlop: the whole Docker stack in Python, layer by layer."""

__version__ = "0.1.0"
