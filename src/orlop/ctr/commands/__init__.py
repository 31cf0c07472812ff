# SPDX-License-Identifier: Apache-2.0
"""The commands of orlop-ctr, one module a group; each has a table COMMANDS."""
