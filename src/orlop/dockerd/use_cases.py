# SPDX-License-Identifier: Apache-2.0
"""The use cases of containers, put together for the routes."""

from orlop.dockerd.api.routes.archive import ArchiveUseCases
from orlop.dockerd.api.routes.containers import ContainerUseCases
from orlop.dockerd.containers.archive_in import ArchiveIn
from orlop.dockerd.containers.archive_out import ArchiveOut
from orlop.dockerd.containers.attach import Attach
from orlop.dockerd.containers.changes import Changes
from orlop.dockerd.containers.checkpoints import Checkpoints
from orlop.dockerd.containers.create import Create
from orlop.dockerd.containers.export import Export
from orlop.dockerd.containers.inspect import Inspect
from orlop.dockerd.containers.links import RemoveLink
from orlop.dockerd.containers.list import List
from orlop.dockerd.containers.live_mounts import LiveMounts
from orlop.dockerd.containers.live_ports import LivePorts
from orlop.dockerd.containers.logs import Logs
from orlop.dockerd.containers.pause import Pause
from orlop.dockerd.containers.prune import Prune
from orlop.dockerd.containers.rename import Rename
from orlop.dockerd.containers.resize import Resize
from orlop.dockerd.containers.restart import Restart
from orlop.dockerd.containers.stats import GetStats
from orlop.dockerd.containers.top import Top
from orlop.dockerd.containers.update import Update
from orlop.dockerd.containers.view import Views
from orlop.dockerd.containers.wait import Wait
from orlop.dockerd.parts import Base, Life, Services


def container_use_cases(base: Base, services: Services, life: Life) -> ContainerUseCases:
    """What the endpoints of containers call."""
    registry, client = base.registry, base.client
    logs = Logs(registry, base.paths, base.watcher, base.kept_logs)
    inspect = Inspect(registry, client, base.paths, base.host)
    images = services.images.store
    return ContainerUseCases(
        create=Create(
            registry,
            client,
            images,
            services.volumes,
            base.runtimes,
            base.paths,
            base.host,
            base.config,
            base.remapping,
        ),
        start=life.start,
        stop=life.stop,
        kill=life.kill,
        restart=Restart(registry, life.stop, life.start),
        pause=Pause(registry, client),
        rename=Rename(registry, services.networks),
        remove=life.remove,
        wait=Wait(registry),
        attach=Attach(registry, logs),
        logs=logs,
        resize=Resize(registry, client),
        top=Top(registry, client),
        stats=GetStats(registry, client),
        inspect=inspect,
        list=List(registry, images, inspect),
        update=Update(
            registry,
            client,
            base.host,
            LiveMounts(client, services.volumes, base.events, base.remapping),
            LivePorts(services.networks, life.resources),
        ),
        prune=Prune(registry, life.remove, inspect, base.events),
        remove_link=RemoveLink(registry),
        checkpoints=Checkpoints(registry, client, base.paths) if base.config.experimental else None,
    )


def archive_use_cases(base: Base, services: Services) -> ArchiveUseCases:
    """What the endpoints around the files of containers call."""
    registry = base.registry
    views = Views(base.client, services.volumes, base.paths, base.remapping)
    return ArchiveUseCases(
        out=ArchiveOut(registry, views, base.remapping),
        into=ArchiveIn(registry, views, base.remapping),
        export=Export(registry, views, base.remapping),
        changes=Changes(registry, base.client, views),
    )
