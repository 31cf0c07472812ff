# SPDX-License-Identifier: Apache-2.0
"""The Engine API: HTTP in, use cases out."""
