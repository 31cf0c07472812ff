# SPDX-License-Identifier: Apache-2.0
"""Transfers of images that the daemon carries out for a client: pull, push, import, export and tag."""
