# SPDX-License-Identifier: Apache-2.0
"""The task manager: bundles, shims and how they are started.

bundle    the directory of a task
zygote    orlop's own shims, forked from a warm process
former    the zygote of a daemon that died
binary    any other shim: its `start` and `delete` commands
shim      a running shim: the connection and the calls
starter   the ways to a shim: one of the two above, or back to one that runs
manager   the tasks of all namespaces: create, load at the daemon's start, clean up after a dead shim, delete
"""
