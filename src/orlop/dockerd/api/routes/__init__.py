# SPDX-License-Identifier: Apache-2.0
"""One module a group of endpoints: each translates HTTP to the small interface that it consumes."""
