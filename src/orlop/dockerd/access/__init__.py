# SPDX-License-Identifier: Apache-2.0
"""Who may do what on a unix socket: a policy by user and group, where the administrator has written one."""
