# SPDX-License-Identifier: Apache-2.0
"""System calls, kernel constants and kernel structures that Python's os module lacks; the only home of ctypes.

Wrappers bear the system call's name and raise OSError with the path or name they were about. Paths may be str or
bytes. Descriptors that a wrapper opens are close-on-exec.
"""
