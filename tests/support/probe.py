# SPDX-License-Identifier: Apache-2.0
"""Who answers: a server and a client of TCP and UDP that tests start in containers and namespaces.

    probe.py serve PORT ...          answer "<own host name> <port>" to everybody, TCP and UDP, IPv4 and IPv6
    probe.py ask [PROTO,ADDRESS,PORT ...]   ask all at once; one JSON list of the answers, null for none

Standard library only: it runs on whatever python3 there is.
"""

import json
import select
import socket
import sys
import threading
import time

_SECONDS = 2.0


def _serve(ports):
    servers = {}
    for port in ports:
        for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                try:
                    server = socket.socket(family, kind)
                    if family == socket.AF_INET6:
                        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    server.bind((wildcard, port))
                except OSError:
                    continue  # no IPv6 here
                if kind == socket.SOCK_STREAM:
                    server.listen()
                servers[server] = f"{socket.gethostname()} {port}".encode()
    print("serving", flush=True)
    while True:
        for server in select.select(list(servers), [], [])[0]:
            if server.type == socket.SOCK_STREAM:
                client, _ = server.accept()
                client.sendall(servers[server])
                client.close()
            else:
                _, address = server.recvfrom(99)
                server.sendto(servers[server], address)


def _ask(target):
    protocol, address, port = target.split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        try:
            with socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM) as client:
                client.settimeout(_SECONDS / 2)
                client.connect((address, int(port)))
                if protocol == "udp":
                    client.send(b"?")
                return client.recv(99).decode() or None
        except ConnectionRefusedError:
            return None
        except OSError:
            if protocol == "tcp":
                return None
    return None


def _ask_all(targets):
    answers = [None] * len(targets)

    def ask(index):
        answers[index] = _ask(targets[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(targets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve([int(port) for port in sys.argv[2:]])
    else:
        _ask_all(sys.argv[2:])
