# SPDX-License-Identifier: Apache-2.0
"""The `orlop-runc` command: the OCI runtime command line over libcontainer."""
