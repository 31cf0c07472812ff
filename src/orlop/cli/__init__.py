# SPDX-License-Identifier: Apache-2.0
"""The command line: the verbs and flags of `docker`, over the Engine API."""
