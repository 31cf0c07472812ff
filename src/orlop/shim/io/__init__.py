# SPDX-License-Identifier: Apache-2.0
"""Standard streams of a container's processes.

    streams   one process: pipes or a terminal, and where its output goes
    source    reads what the process writes and hands it to the sinks
    sinks     FIFOs, files and descriptors that output is copied to
    stdin     writes to the process
    jsonlog   Docker's json-file log with rotation
    attach    the attach socket
    logger    logging programs (binary://)
    uri       what the strings in a CreateTaskRequest mean

A source stops reading while a sink is full, so that memory stays bounded and the process waits, as on any pipe.
"""
