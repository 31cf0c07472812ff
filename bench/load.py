# SPDX-License-Identifier: Apache-2.0
"""Many containers and many clients at once: what fails, what is lost, how memory and `ps` fare.

Containers run; clients follow logs, stats and events for as long as the load lasts, while other containers are
created, started, entered, killed and removed. Every request must succeed, every line, sample and event must come,
in order. Exit status 1 if one did not, or if the memory of a daemon still grew in the second half.
"""

import argparse
import collections
import contextlib
import http.client
import itertools
import json
import pathlib
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

from api_compare import Api
from compare import load_busybox
from engines import Docker, Engine, Orlop, docker, pss_kib

_CHURNERS = 4
_WRITERS = 20
_LABEL = "load=churn"
_LIFE = ("create", "start", "die", "destroy")
# A writer's lines come in bursts: what is measured is the engine, not the shell.
_WRITE = "i=0; while :; do n=0; while [ $n -lt 25 ]; do echo $i; i=$((i+1)); n=$((n+1)); done; sleep 0.5; done"
_SAMPLE_SECONDS = 30.0
"""A stats sample that comes later than this is missing."""
_PATIENCE_SECONDS = 60.0
_GROWTH, _SLACK_KIB = 1.1, 2048
"""What a daemon's memory may grow by in the second half: pools of an allocator, not more."""
_JUDGED_SECONDS = 60
"""Of a shorter load memory tells nothing: caches still fill."""


class Ledger:
    """What was asked for, and what went wrong; all threads write to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.ps: dict[str, list[float]] = {"API": [], "CLI": []}

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def fail(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)


class Client(threading.Thread):
    """One client of the engine, in a thread; what it raises is a failure."""

    def __init__(self, engine: Engine, ledger: Ledger, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.engine, self.ledger = engine, ledger
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            self.work()
        except (SystemExit, OSError, http.client.HTTPException, ValueError, LookupError) as error:
            self.ledger.fail(f"{self.name}: {type(error).__name__}: {error}")

    def work(self) -> None:
        raise NotImplementedError

    def stream(self, path: str) -> Iterator[bytes]:
        """The chunks of a stream that goes on until the engine ends it."""
        self.ledger.count("streams")
        with contextlib.closing(Api(self.engine)) as api:
            api.request("GET", path)
            answer = api.getresponse()
            if answer.status != 200:
                raise ValueError(f"{answer.status} {answer.read().decode()}")
            while chunk := answer.read1(1 << 16):
                yield chunk


class LogClient(Client):
    """Follows the log of one writer, whose lines are numbers without a gap."""

    def __init__(self, engine: Engine, ledger: Ledger, container: str) -> None:
        super().__init__(engine, ledger, f"logs of {container}")
        self.container = container
        self.next = 0

    def work(self) -> None:
        waiting = b""
        for chunk in self.stream(f"/containers/{self.container}/logs?stdout=1&stderr=1&follow=1"):
            waiting += chunk
            while len(waiting) >= 8 and len(waiting) >= 8 + (size := struct.unpack_from(">I", waiting, 4)[0]):
                for line in waiting[8 : 8 + size].splitlines():
                    if int(line) != self.next:
                        raise ValueError(f"line {int(line)} where {self.next} was due")
                    self.next += 1
                    self.ledger.count("log lines")
                waiting = waiting[8 + size :]
        last = docker(self.engine.host, "logs", "--tail", "1", self.container)
        if not self.stopped.is_set() or int(last) != self.next - 1:
            raise ValueError(f"ended after line {self.next - 1}; the last one is {last.strip()}")


class StatsClient(Client):
    """Watches one container's stats: a sample a second."""

    def __init__(self, engine: Engine, ledger: Ledger, container: str) -> None:
        super().__init__(engine, ledger, f"stats of {container}")
        self.container = container

    def work(self) -> None:
        before, waiting = time.monotonic(), b""
        for chunk in self.stream(f"/containers/{self.container}/stats?stream=1"):
            *complete, waiting = (waiting + chunk).split(b"\n")
            for text in complete:
                if self.stopped.is_set():
                    return
                if not json.loads(text)["memory_stats"].get("usage"):
                    raise ValueError(f"an empty sample: {text.decode()}")
                if time.monotonic() - before > _SAMPLE_SECONDS:
                    raise ValueError(f"a sample after {time.monotonic() - before:.1f} s")
                before = time.monotonic()
                self.ledger.count("samples")
        raise ValueError("the stream ended")


class EventClient(Client):
    """Counts the events of the containers that come and go, until the last one has gone."""

    def __init__(self, engine: Engine, ledger: Ledger, number: int) -> None:
        super().__init__(engine, ledger, f"events, client {number}")
        self.seen: collections.Counter[tuple[str, str]] = collections.Counter()
        self.listening = threading.Event()

    def work(self) -> None:
        waiting = b""
        filters = json.dumps({"label": [_LABEL]})
        self.listening.set()
        for chunk in self.stream(f"/events?since={time.time() - 1:.0f}&filters={filters.replace(' ', '')}"):
            *complete, waiting = (waiting + chunk).split(b"\n")
            for text in complete:
                event = json.loads(text)
                self.ledger.count("events")
                self.seen[event["Actor"]["ID"], event["Action"]] += 1
                if event["Action"] == "destroy" and event["Actor"]["Attributes"]["name"] == "last":
                    return
        raise ValueError("the stream ended")

    def check(self, lives: list[str]) -> None:
        """Each life must have been seen whole, once, and nothing else."""
        for identifier, action in itertools.product(lives, _LIFE):
            if (count := self.seen[identifier, action]) != 1:
                self.ledger.fail(f"{self.name}: {action} of {identifier[:12]} was seen {count} times")


class Churner(Client):
    """Brings containers to life and to their end, one after the other, over one connection."""

    def __init__(self, engine: Engine, ledger: Ledger, number: int) -> None:
        super().__init__(engine, ledger, f"churner {number}")
        self.number = number
        self.lives: list[str] = []

    def work(self) -> None:
        with contextlib.closing(Api(self.engine)) as api:
            for life in itertools.count():
                if self.stopped.is_set():
                    return
                self.live(api, f"churn-{self.number}-{life}", publish=life % 4 == 0)

    def live(self, api: Api, name: str, *, publish: bool = False) -> None:
        host: dict[str, object] = {"PortBindings": {"80/tcp": [{"HostPort": ""}]}} if publish else {}
        key, _, value = _LABEL.partition("=")
        command = ["sh", "-c", "echo here; sleep 1000"]
        body = {"Image": "busybox", "Cmd": command, "Labels": {key: value}, "HostConfig": host}
        identifier = str(self.ask(api, "POST", f"/containers/create?name={name}", body)["Id"])
        self.ask(api, "POST", f"/containers/{identifier}/start")
        entered = self.ask(api, "POST", f"/containers/{identifier}/exec", {"Cmd": ["true"]})["Id"]
        self.ask(api, "POST", f"/exec/{entered}/start", {"Detach": True})
        if not self.ask(api, "GET", f"/containers/{identifier}/json")["State"]["Running"]:  # type: ignore[index]
            raise ValueError(f"{name} does not run")
        self.ask(api, "POST", f"/containers/{identifier}/kill")
        if (status := self.ask(api, "POST", f"/containers/{identifier}/wait")["StatusCode"]) != 137:
            raise ValueError(f"{name} ended with {status}")
        self.ask(api, "DELETE", f"/containers/{identifier}")
        self.lives.append(identifier)
        self.ledger.count("lives")

    def ask(self, api: Api, method: str, path: str, body: object = None) -> dict[str, object]:
        answer = api.call(method, path, body)
        self.ledger.count("requests")
        return answer


class Lister(Client):
    """Asks for the list of containers every second, and now and then by the docker command."""

    def __init__(self, engine: Engine, ledger: Ledger, least: int) -> None:
        super().__init__(engine, ledger, "ps")
        self.least = least

    def work(self) -> None:
        with contextlib.closing(Api(self.engine)) as api:
            for turn in itertools.count():
                begin = time.perf_counter()
                found = api.call("GET", "/containers/json")
                self.ledger.ps["API"].append(time.perf_counter() - begin)
                if len(found) < self.least:
                    raise ValueError(f"{len(found)} of {self.least} containers were listed")
                if turn % 5 == 0:
                    begin = time.perf_counter()
                    docker(self.engine.host, "ps", "-q")
                    self.ledger.ps["CLI"].append(time.perf_counter() - begin)
                self.ledger.count("requests")
                if self.stopped.wait(1.0):
                    return


class Load:
    """The whole of it, for one engine."""

    def __init__(self, engine: Engine, options: argparse.Namespace) -> None:
        self.engine, self.options = engine, options
        self.ledger = Ledger()
        self._shims: list[int] = []
        writers = [f"writer-{number}" for number in range(min(_WRITERS, options.clients))]
        self._idle = [f"idle-{number}" for number in range(options.containers - len(writers))]
        self._writers = [LogClient(engine, self.ledger, name) for name in writers]
        others = range(options.clients - len(writers))
        self._stats = [StatsClient(engine, self.ledger, self._idle[number]) for number in others[::2]]
        self._events = [EventClient(engine, self.ledger, number) for number in others[1::2]]
        self._churners = [Churner(engine, self.ledger, number) for number in range(_CHURNERS)]
        self._lister = Lister(engine, self.ledger, options.containers)

    def run(self) -> bool:
        """Whether all went well."""
        self._populate()
        clients: list[Client] = [*self._writers, *self._stats, *self._events, *self._churners, self._lister]
        for client in clients:
            client.start()
        sizes = [self._memory()]
        for _ in range(2):
            time.sleep(self.options.seconds / 2)  # the load is what is measured; there is nothing to wait for
            sizes.append(self._memory())
        self._end()
        self._report(sizes)
        return not self.ledger.failures

    def _populate(self) -> None:
        with contextlib.closing(Api(self.engine)) as api:
            for name in [*self._idle, *(client.container for client in self._writers)]:
                command = ["sleep", "1000000"] if name in self._idle else ["sh", "-c", _WRITE]
                body = {"Image": "busybox", "Cmd": command}
                identifier = api.call("POST", f"/containers/create?name={name}", body)["Id"]
                api.call("POST", f"/containers/{identifier}/start")
        self._shims = self.engine.per_container()

    def _memory(self) -> dict[str, int]:
        """KiB by role; of shims those of the containers that stay."""
        sizes = {role: pss_kib(pids) for role, pids in self.engine.daemons().items()}
        return {**sizes, "shims": pss_kib(self._shims)}

    def _end(self) -> None:
        """Let those who churn come to an end first, so that all that they did can be looked for in the events."""
        self._join([*self._churners, self._lister])
        last = Churner(self.engine, self.ledger, _CHURNERS)
        with contextlib.closing(Api(self.engine)) as api:
            last.live(api, "last")
            self._join(self._events, stop=False)
            for client in self._writers:
                client.stopped.set()
                api.call("POST", f"/containers/{client.container}/kill")
        self._join([*self._writers, *self._stats])
        lives = [life for churner in [*self._churners, last] for life in churner.lives]
        for listener in self._events:
            listener.check(lives)

    def _join(self, clients: Sequence[Client], *, stop: bool = True) -> None:
        for client in clients:
            if stop:
                client.stopped.set()
        for client in clients:
            client.join(_PATIENCE_SECONDS)
            if client.is_alive():
                self.ledger.fail(f"{client.name} did not end")

    def _report(self, sizes: list[dict[str, int]]) -> None:
        options, ledger = self.options, self.ledger
        print(
            f"{self.engine.name}: {options.containers} containers, {options.clients} clients, {options.seconds} s"
        )
        print("  " + ", ".join(f"{count} {what}" for what, count in sorted(ledger.counts.items())))
        for way, seconds in ledger.ps.items():
            times = [1000 * value for value in seconds]
            middle = statistics.median(times)
            print(f"  ps, {way}: median {middle:.0f} ms, slowest {max(times):.0f} ms, of {len(times)}")
        print("  memory (PSS, MiB) at the begin, in the middle, at the end:")
        for role in sizes[0]:
            print(f"    {role:10}" + "".join(f"{size[role] / 1024:9.2f}" for size in sizes))
            grown = sizes[2][role] > sizes[1][role] * _GROWTH + _SLACK_KIB
            if grown and options.seconds >= _JUDGED_SECONDS:
                ledger.fail(f"memory of {role} grows")
        print(f"  failures: {len(ledger.failures)}", *ledger.failures[:20], sep="\n    ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/load", description=__doc__)
    parser.add_argument("--containers", type=int, default=300, help="that run all the time (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=50, help="of logs, stats and events (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=600, help="how long (default: %(default)s)")
    parser.add_argument("--docker", action="store_true", help="put the load on Debian's docker.io, to compare")
    options = parser.parse_args()
    if options.containers < options.clients or options.clients < 3:
        parser.error("there must be three clients, and as many containers as clients")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        root = pathlib.Path(directory)
        engine: Engine = Docker(root / "d") if options.docker else Orlop(root / "o")
        try:
            engine.start()
            load_busybox(engine)
            well = Load(engine, options).run()
        finally:
            engine.stop()
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
