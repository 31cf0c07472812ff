# SPDX-License-Identifier: Apache-2.0
"""Trees of files as tar streams: reading, writing, making files of them and removing them, by descriptors only."""
