# SPDX-License-Identifier: Apache-2.0
"""The commands and flags of `orlop-runc`, as data: what is parsed, and what help shows."""

# A flag: (long name, short name or "", kind, help). Kinds: bool, string, int, list.
Flag = tuple[str, str, str, str]
# A command: (module of orlop.runc, argument usage, fewest and most arguments (-1: any), help, flags).
Command = tuple[str, str, int, int, str, tuple[Flag, ...]]

GLOBAL: tuple[Flag, ...] = (
    ("debug", "", "bool", "enable debug logging"),
    ("log", "", "string", "set the log file to write runc logs to (default is '/dev/stderr')"),
    ("log-format", "", "string", "set the log format ('text' (default), or 'json')"),
    ("root", "", "string", 'root directory for storage of container state (default: "/run/orlop/runc")'),
    ("criu", "", "string", "(obsoleted; do not use)"),
    ("systemd-cgroup", "", "bool", "enable systemd cgroup support"),
    ("cgroup-manager", "", "string", "who makes the cgroups: 'cgroupfs', 'systemd', or 'disabled' for none"),
    ("log-level", "", "string", "least severe messages to log: 'error', 'warning' (default) or 'debug'"),
    ("rootless", "", "string", "ignore cgroup permission errors ('true', 'false', or 'auto')"),
    ("help", "h", "bool", "show help"),
    ("version", "v", "bool", "print the version"),
)

_HELP: Flag = ("help", "h", "bool", "show help")
_BUNDLE: Flag = (
    "bundle", "b", "string", "path to the root of the bundle directory, defaults to the current directory",
)  # fmt: skip
_CONFIG: Flag = ("config", "f", "string", "override the config file name (default: config.json)")
_REGEX: Flag = ("regex", "r", "bool", "the specified container is a regular expression")
_CONSOLE: Flag = (
    "console-socket", "", "string", "path to an AF_UNIX socket which will receive the terminal's master end",
)  # fmt: skip
_PIDFD: Flag = (
    "pidfd-socket", "", "string", "path to an AF_UNIX socket which will receive a descriptor of the process",
)  # fmt: skip
_PID_FILE: Flag = ("pid-file", "", "string", "specify the file to write the process id to")
_PRESERVE: Flag = (
    "preserve-fds", "", "int", "pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N)",
)  # fmt: skip
_NO_PIVOT: Flag = ("no-pivot", "", "bool", "do not use pivot root to jail process inside rootfs")
_NO_KEYRING: Flag = ("no-new-keyring", "", "bool", "do not create a new session keyring for the container")
_SUBREAPER: Flag = ("no-subreaper", "", "bool", "do not collect processes that are reparented to this one")
_CRIU: tuple[Flag, ...] = (
    ("image-path", "", "string", "path for criu image files (default: checkpoint in the current directory)"),
    ("work-path", "", "string", "path for saving work files and logs"),
    ("tcp-established", "", "bool", "allow open tcp connections"),
    ("ext-unix-sk", "", "bool", "allow external unix sockets"),
    ("shell-job", "", "bool", "allow shell jobs"),
    ("file-locks", "", "bool", "handle file locks, for safety"),
    ("manage-cgroups-mode", "", "string", "cgroups mode: soft|full|strict|ignore (default: soft)"),
    ("empty-ns", "", "list", "create a namespace, but don't restore its properties"),
    ("auto-dedup", "", "bool", "enable auto deduplication of memory images"),
    ("lazy-pages", "", "bool", "use userfaultfd to lazily restore memory pages"),
    ("network-lock", "", "string", "how the network is locked meanwhile: iptables (default), nftables or skip"),
)
_ID = "<container-id>"

COMMANDS: dict[str, Command] = {
    "create": (
        "run", _ID, 1, 1, "create a container",
        (_BUNDLE, _CONFIG, _CONSOLE, _PIDFD, _PID_FILE, _SUBREAPER, _NO_PIVOT, _NO_KEYRING, _PRESERVE, _HELP),
    ),
    "delete": (
        "lifecycle", _ID, 1, 1, "delete any resources held by the container",
        (
            ("force", "f", "bool", "forcibly deletes the container if it is still running (uses SIGKILL)"),
            _REGEX, _HELP,
        ),
    ),
    "events": (
        "inspect", _ID, 1, 1, "display container events such as OOM notifications, cpu, memory, and IO usage",
        (
            ("interval", "", "string", "set the stats collection interval (default: 5s)"),
            ("stats", "", "bool", "display the container's stats then exit"),
            _HELP,
        ),
    ),
    "exec": (
        "exec", "<container-id> <command> [command options]  || -p process.json <container-id>", 1, -1,
        "execute new process inside the container",
        (
            _CONSOLE,
            _PIDFD,
            ("cwd", "", "string", "current working directory in the container"),
            ("env", "e", "list", "set environment variables"),
            ("tty", "t", "bool", "allocate a pseudo-TTY"),
            ("user", "u", "string", "UID (format: <uid>[:<gid>])"),
            ("additional-gids", "g", "list", "additional gids"),
            ("process", "p", "string", "path to the process.json"),
            ("detach", "d", "bool", "detach from the container's process"),
            _PID_FILE,
            ("process-label", "", "string", "set the asm process label for the process"),
            ("apparmor", "", "string", "set the apparmor profile for the process"),
            ("no-new-privs", "", "bool", "set the no new privileges value for the process"),
            ("cap", "c", "list", "add a capability to the bounding set for the process"),
            _PRESERVE,
            ("cgroup", "", "list", "run the process in an (existing) sub-cgroup"),
            ("ignore-paused", "", "bool", "allow exec in a paused container"),
            _SUBREAPER,
            _HELP,
        ),
    ),
    "kill": (
        "lifecycle", "<container-id> [signal]", 1, 2,
        "send the specified signal (default: SIGTERM) to the container's init process",
        (("all", "a", "bool", "send the signal to all processes of the container"), _REGEX, _HELP),
    ),
    "list": (
        "inspect", "", 0, 0, "list containers started with the given root",
        (
            ("format", "f", "string", "select one of: table or json (default: table)"),
            ("quiet", "q", "bool", "display only container IDs"),
            _HELP,
        ),
    ),
    "mounts": (
        "mounts", "add|remove <container-id> <file>", 3, 3,
        "add the mounts of a file (a JSON array as in config.json) to a running container, or remove them",
        (_HELP,),
    ),
    "pause": ("control", _ID, 1, 1, "suspend all processes inside the container", (_HELP,)),
    "ps": (
        "inspect", "<container-id> [ps options]", 1, -1, "display the processes running inside a container",
        (("format", "f", "string", "select one of: table or json (default: table)"), _HELP),
    ),
    "resume": ("control", _ID, 1, 1, "resume all processes that have been previously paused", (_HELP,)),
    "run": (
        "run", _ID, 1, 1, "create and run a container",
        (
            _BUNDLE, _CONFIG, _CONSOLE, _PIDFD,
            ("detach", "d", "bool", "detach from the container's process"),
            ("keep", "", "bool", "do not delete the container after it exits"),
            _PID_FILE, _SUBREAPER, _NO_PIVOT, _NO_KEYRING, _PRESERVE, _HELP,
        ),
    ),
    "spec": (
        "spec", "", 0, 0, "create a new specification file",
        (
            ("bundle", "b", "string", "path to the root of the bundle directory"),
            ("file", "f", "string", "destination file (default: config.json)"),
            ("rootless", "", "bool", "generate a configuration for a rootless container"),
            _HELP,
        ),
    ),
    "start": ("lifecycle", _ID, 1, 1, "execute the user defined process in a created container", (_HELP,)),
    "state": ("lifecycle", _ID, 1, 1, "output the state of a container", (_HELP,)),
    "update": (
        "control", _ID, 1, 1, "update container resource constraints",
        (
            ("resources", "r", "string", "path to a file with the resources to update, or '-' for standard input"),
            ("blkio-weight", "", "int", "specifies per cgroup weight, range is from 10 to 1000"),
            ("cpu-period", "", "string", "CPU CFS period to be used for hardcapping (in usecs)"),
            ("cpu-quota", "", "string", "CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period"),
            ("cpu-burst", "", "string", "CPU CFS hardcap burst limit (in usecs)"),
            ("cpu-share", "", "string", "CPU shares (relative weight vs. other containers)"),
            ("cpu-rt-period", "", "string", "CPU realtime period to be used for hardcapping (in usecs)"),
            ("cpu-rt-runtime", "", "string", "CPU realtime hardcap limit (in usecs)"),
            ("cpuset-cpus", "", "string", "CPU(s) to use"),
            ("cpuset-mems", "", "string", "memory node(s) to use"),
            ("kernel-memory", "", "string", "(obsoleted; do not use)"),
            ("kernel-memory-tcp", "", "string", "(obsoleted; do not use)"),
            ("memory", "", "string", "memory limit (in bytes)"),
            ("cpu-idle", "", "string", "set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE"),
            ("memory-reservation", "", "string", "memory reservation or soft_limit (in bytes)"),
            ("memory-swap", "", "string", "total memory usage (memory + swap); '-1' for unlimited swap"),
            ("pids-limit", "", "int", "maximum number of pids allowed in the container"),
            ("l3-cache-schema", "", "string", "Intel RDT/CAT L3 cache schema"),
            ("mem-bw-schema", "", "string", "Intel RDT/MBA memory bandwidth schema"),
            _HELP,
        ),
    ),
    "features": ("features", "", 0, 0, "show the enabled features", (_HELP,)),
    "checkpoint": (
        "checkpoint", _ID, 1, 1, "checkpoint a running container",
        (
            *_CRIU,
            ("parent-path", "", "string", "path for previous criu image files in pre-dump"),
            ("leave-running", "", "bool", "leave the process running after checkpointing"),
            ("tcp-skip-in-flight", "", "bool", "skip in-flight tcp connections"),
            ("link-remap", "", "bool", "allow one to link unlinked files back when possible"),
            ("status-fd", "", "int", "criu writes \\0 to this FD once lazy-pages is ready"),
            ("page-server", "", "string", "ADDRESS:PORT of the page server"),
            ("pre-dump", "", "bool", "dump memory information only, leave the container running"),
            _HELP,
        ),
    ),
    "restore": (
        "checkpoint", _ID, 1, 1, "restore a container from a previous checkpoint",
        (
            _BUNDLE, _CONSOLE,
            *_CRIU,
            ("detach", "d", "bool", "detach from the container's process"),
            _PID_FILE, _SUBREAPER, _NO_PIVOT,
            ("tcp-close", "", "bool", "restore tcp connections in closed state"),
            ("lsm-profile", "", "string", "specify an LSM profile to be used during restore, as TYPE:NAME"),
            ("lsm-mount-context", "", "string", "specify an LSM mount context to be used during restore"),
            _HELP,
        ),
    ),
}  # fmt: skip
