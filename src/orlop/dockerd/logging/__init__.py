# SPDX-License-Identifier: Apache-2.0
"""Log drivers: which there are, what their options mean, the formats of files, and the way to collectors."""
