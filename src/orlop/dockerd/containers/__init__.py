# SPDX-License-Identifier: Apache-2.0
"""What can be done with containers, one use case a file."""
