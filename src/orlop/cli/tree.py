# SPDX-License-Identifier: Apache-2.0
"""The tree of commands as a table: path, module, attribute. Only the module of the command that runs is loaded."""

# path: (module under orlop.cli.commands, name of its Command, short help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("run", "RUN", "Create and run a new container from an image"),
    "exec": ("exec", "EXEC", "Execute a command in a running container"),
    "ps": ("ps", "PS", "List containers"),
    "pull": ("pull", "PULL", "Download an image from a registry"),
    "images": ("images", "LIST", "List images"),
    "version": ("version", "VERSION", "Show the Docker version information"),
    "info": ("info", "INFO", "Display system-wide information"),
    "attach": (
        "attach",
        "ATTACH",
        "Attach local standard input, output, and error streams to a running container",
    ),
    "commit": ("changes", "COMMIT", "Create a new image from a container's changes"),
    "cp": ("cp", "CP", "Copy files/folders between a container and the local filesystem"),
    "create": ("run", "CREATE", "Create a new container"),
    "diff": ("changes", "DIFF", "Inspect changes to files or directories on a container's filesystem"),
    "events": ("events", "EVENTS", "Get real time events from the server"),
    "export": ("archives", "EXPORT", "Export a container's filesystem as a tar archive"),
    "history": ("history", "HISTORY", "Show the history of an image"),
    "import": ("archives", "IMPORT", "Import the contents from a tarball to create a filesystem image"),
    "inspect": ("inspect", "INSPECT", "Return low-level information on Docker objects"),
    "kill": ("lifecycle", "KILL", "Kill one or more running containers"),
    "load": ("archives", "LOAD", "Load an image from a tar archive or STDIN"),
    "login": ("registries", "LOGIN", "Authenticate to a registry"),
    "logout": ("registries", "LOGOUT", "Log out from a registry"),
    "logs": ("logs", "LOGS", "Fetch the logs of a container"),
    "pause": ("lifecycle", "PAUSE", "Pause all processes within one or more containers"),
    "port": ("port", "PORT", "List port mappings or a specific mapping for the container"),
    "push": ("registries", "PUSH", "Upload an image to a registry"),
    "rename": ("lifecycle", "RENAME", "Rename a container"),
    "restart": ("lifecycle", "RESTART", "Restart one or more containers"),
    "rm": ("lifecycle", "REMOVE", "Remove one or more containers"),
    "rmi": ("images", "REMOVE", "Remove one or more images"),
    "save": ("archives", "SAVE", "Save one or more images to a tar archive (streamed to STDOUT by default)"),
    "search": ("registries", "SEARCH", "Search Docker Hub for images"),
    "start": ("start", "START", "Start one or more stopped containers"),
    "stats": ("stats", "STATS", "Display a live stream of container(s) resource usage statistics"),
    "stop": ("lifecycle", "STOP", "Stop one or more running containers"),
    "tag": ("images", "TAG", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "top": ("top", "TOP", "Display the running processes of a container"),
    "unpause": ("lifecycle", "UNPAUSE", "Unpause all processes within one or more containers"),
    "update": ("update", "UPDATE", "Update configuration of one or more containers"),
    "wait": ("lifecycle", "WAIT", "Block until one or more containers stop, then print their exit codes"),
    "container prune": ("prune", "CONTAINERS", "Remove all stopped containers"),
    "image inspect": ("inspect", "IMAGE_INSPECT", "Display detailed information on one or more images"),
    "network connect": ("networks", "CONNECT", "Connect a container to a network"),
    "network create": ("networks", "CREATE", "Create a network"),
    "network disconnect": ("networks", "DISCONNECT", "Disconnect a container from a network"),
    "image prune": ("prune", "IMAGES", "Remove unused images"),
    "network inspect": ("inspect", "NETWORK_INSPECT", "Display detailed information on one or more networks"),
    "network ls": ("networks", "LIST", "List networks"),
    "network prune": ("networks", "PRUNE", "Remove all unused networks"),
    "network rm": ("networks", "REMOVE", "Remove one or more networks"),
    "system dial-stdio": (
        "dial_stdio",
        "DIAL_STDIO",
        "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
    ),
    "system df": ("df", "DF", "Show docker disk usage"),
    "system events": ("events", "EVENTS", "Get real time events from the server"),
    "system info": ("info", "INFO", "Display system-wide information"),
    "system prune": ("prune", "SYSTEM", "Remove unused data"),
    "volume create": ("volumes", "CREATE", "Create a volume"),
    "volume inspect": ("inspect", "VOLUME_INSPECT", "Display detailed information on one or more volumes"),
    "volume ls": ("volumes", "LIST", "List volumes"),
    "volume prune": ("volumes", "PRUNE", "Remove unused local volumes"),
    "volume rm": ("volumes", "REMOVE", "Remove one or more volumes"),
    "checkpoint create": ("checkpoints", "CREATE", "Create a checkpoint from a running container"),
    "checkpoint ls": ("checkpoints", "LIST", "List checkpoints for a container"),
    "checkpoint rm": ("checkpoints", "REMOVE", "Remove a checkpoint"),
    "context create": ("contexts", "CREATE", "Create a context"),
    "context export": (
        "contexts",
        "EXPORT",
        "Export a context to a tar archive FILE or a tar stream on STDOUT.",
    ),
    "context import": ("contexts", "IMPORT", "Import a context from a tar or zip file"),
    "context inspect": ("contexts", "INSPECT", "Display detailed information on one or more contexts"),
    "context ls": ("contexts", "LIST", "List contexts"),
    "context rm": ("contexts", "REMOVE", "Remove one or more contexts"),
    "context show": ("contexts", "SHOW", "Print the name of the current context"),
    "context update": ("contexts", "UPDATE", "Update a context"),
    "context use": ("contexts", "USE", "Set the current docker context"),
    "manifest annotate": ("manifests", "ANNOTATE", "Add additional information to a local image manifest"),
    "manifest create": (
        "manifests",
        "CREATE",
        "Create a local manifest list for annotating and pushing to a registry",
    ),
    "manifest inspect": ("manifests", "INSPECT", "Display an image manifest, or manifest list"),
    "manifest push": ("manifests", "PUSH", "Push a manifest list to a repository"),
    "manifest rm": ("manifests", "REMOVE", "Delete one or more manifest lists from local storage"),
    "plugin create": (
        "plugins",
        "CREATE",
        "Create a plugin from a rootfs and configuration. Plugin data directory must contain config.json and "
        "rootfs directory.",
    ),
    "plugin disable": ("plugins", "DISABLE", "Disable a plugin"),
    "plugin enable": ("plugins", "ENABLE", "Enable a plugin"),
    "plugin inspect": ("inspect", "PLUGIN_INSPECT", "Display detailed information on one or more plugins"),
    "plugin install": ("plugins", "INSTALL", "Install a plugin"),
    "plugin ls": ("plugins", "LIST", "List plugins"),
    "plugin push": ("plugins", "PUSH", "Push a plugin to a registry"),
    "plugin rm": ("plugins", "REMOVE", "Remove one or more plugins"),
    "plugin set": ("plugins", "SET", "Change settings for a plugin"),
    "plugin upgrade": ("plugins", "UPGRADE", "Upgrade an existing plugin"),
    "container inspect": (
        "inspect",
        "CONTAINER_INSPECT",
        "Display detailed information on one or more containers",
    ),
}

# Other names of the same commands.
ALIASES: dict[str, str] = {
    "container attach": "attach", "container cp": "cp",
    "container commit": "commit", "container create": "create", "container diff": "diff",
    "container export": "export", "container update": "update", "container exec": "exec", "container kill": "kill",
    "container logs": "logs", "container ls": "ps", "container list": "ps", "container ps": "ps",
    "container pause": "pause", "container port": "port", "container rename": "rename",
    "container restart": "restart", "container rm": "rm", "container remove": "rm", "container run": "run",
    "container start": "start", "container stats": "stats", "container stop": "stop", "container top": "top",
    "container unpause": "unpause", "container wait": "wait",
    "image history": "history", "image import": "import", "image push": "push", "image save": "save",
    "image load": "load", "image ls": "images", "image list": "images", "image pull": "pull", "image rm": "rmi",
    "image remove": "rmi", "image tag": "tag",
    "network list": "network ls", "network remove": "network rm",
    "checkpoint list": "checkpoint ls", "checkpoint remove": "checkpoint rm",
    "context list": "context ls", "context remove": "context rm",
    "plugin list": "plugin ls", "plugin remove": "plugin rm",
    "volume list": "volume ls", "volume remove": "volume rm",
}  # fmt: skip

HIDDEN = frozenset({"system dial-stdio"})
"""Commands that no help lists."""

COMMON = ("run", "exec", "ps", "pull", "images", "version", "info")

GROUPS: dict[str, str] = {
    "checkpoint": "Manage checkpoints",
    "container": "Manage containers",
    "context": "Manage contexts",
    "daemon": "Start, stop and show the components of the engine",
    "image": "Manage images",
    "manifest": "Manage Docker image manifests and manifest lists",
    "network": "Manage networks",
    "plugin": "Manage plugins",
    "system": "Manage Docker",
    "volume": "Manage volumes",
}


def find(words: list[str]) -> tuple[str, str, list[str]] | None:
    """The command that `words` begin with: (its path as typed, its canonical path, the other words)."""
    for length in (2, 1):
        path = " ".join(words[:length])
        if len(words) >= length and (path in COMMANDS or path in ALIASES):
            return path, ALIASES.get(path, path), words[length:]
    return None


def aliases_of(path: str) -> list[str]:
    """All paths of one command, sorted as docker prints them: groups first."""
    paths = [alias for alias, target in ALIASES.items() if target == path] + [path]
    return sorted(paths, key=lambda p: (" " not in p, p))
