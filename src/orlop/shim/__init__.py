# SPDX-License-Identifier: Apache-2.0
"""The containerd shim: it outlives everything above it and owns a container's processes, output and exit codes.

    main        the command line: start, delete, -info, -v, and the server itself
    zygote      forks ready-made shims for orlop-containerd
    bootstrap   what start reads and answers; socket addresses
    server      one shim process put together
    service     the Task API in terms of `containers`
    messages    answers, events and options as the API has them
    containers  the state machine of containers and their processes
    io          standard streams: pipes, terminals, logs, FIFOs, the attach socket
    events      publishes to containerd, in order, also after it was away
    runtime     the Runtime seam and its drivers
    loop        the one selector loop; reaper: the exits of children

No threads, no asyncio, no gRPC: the process forks.
"""
