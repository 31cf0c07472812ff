# SPDX-License-Identifier: Apache-2.0
"""A small network plugin over Docker's remote driver protocol: each network is a bridge of its own making.

The option `hang` of a network names the method whose call it never answers, `address` what it gives endpoints;
`gateway`: `none` names none, `contained` says that there shall be none, `routed` has a static route to everywhere.

Start: `python -m support.network_plugin SOCKET`. It writes each call as a line of JSON to standard output.
"""

import json
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any


class State:
    """What the plugin knows."""

    networks: dict[str, str] = {}
    refuse = ""
    hang = ""
    address = ""
    gateway = ""
    scope = "local"
    bare = False
    pools = 0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def answer(method: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a call."""
    if State.refuse == method:
        return {"Err": "it does not please me"}
    if State.hang == method:
        threading.Event().wait()
    network, endpoint = body.get("NetworkID", ""), body.get("EndpointID", "")
    match method:
        case "Plugin.Activate":
            return {"Implements": ["NetworkDriver", "IpamDriver"]}
        case "NetworkDriver.GetCapabilities":
            return {"Scope": State.scope}
        case "NetworkDriver.CreateNetwork":
            State.refuse = body["Options"]["com.docker.network.generic"].get("refuse", "")
            State.hang = body["Options"]["com.docker.network.generic"].get("hang", "")
            State.address = body["Options"]["com.docker.network.generic"].get("address", "")
            State.gateway = body["Options"]["com.docker.network.generic"].get("gateway", "")
            State.scope = body["Options"]["com.docker.network.generic"].get("scope", "local")
            if State.hang == method:
                threading.Event().wait()
            if State.refuse == method:
                State.refuse = ""
                return {"Err": "it does not please me"}
            State.networks[network] = f"pb{network[:8]}"
            ip("link", "add", State.networks[network], "type", "bridge")
            State.bare = "Gateway" not in body["IPv4Data"][0] and not State.address
            gateway = body["IPv4Data"][0].get("Gateway", "10.66.0.1/24")
            ip("addr", "add", gateway, "dev", State.networks[network])
            ip("link", "set", State.networks[network], "up")
        case "NetworkDriver.DeleteNetwork":
            ip("link", "del", State.networks.pop(network))
        case "NetworkDriver.CreateEndpoint":
            ip("link", "add", f"ph{endpoint[:8]}", "type", "veth", "peer", "name", f"pc{endpoint[:8]}")
            ip("link", "set", f"ph{endpoint[:8]}", "master", State.networks[network], "up")
            mac = {} if body["Interface"]["MacAddress"] else {"MacAddress": "02:00:00:00:00:42"}
            return {"Interface": mac | ({"Address": State.address} if State.address else {})}
        case "NetworkDriver.Join":
            name = {"SrcName": f"pc{endpoint[:8]}", "DstPrefix": "plug"}
            if State.gateway == "routed":
                route = {"Destination": "0.0.0.0/0", "RouteType": 0, "NextHop": "10.66.0.1"}
                return {"InterfaceName": name, "StaticRoutes": [route]}
            if State.bare or State.gateway:
                return {"InterfaceName": name, "DisableGatewayService": State.gateway == "contained"}
            return {
                "InterfaceName": name,
                "Gateway": "10.66.0.1",
                "StaticRoutes": [{"Destination": "10.67.0.0/24", "RouteType": 0, "NextHop": "10.66.0.9"}],
            }
        case "NetworkDriver.DeleteEndpoint":
            # the interface is back where it was made
            ip("link", "del", f"pc{endpoint[:8]}")
        case "IpamDriver.GetDefaultAddressSpaces":
            return {"LocalDefaultAddressSpace": "near", "GlobalDefaultAddressSpace": "far"}
        case "IpamDriver.RequestPool":
            State.pools += 1
            return {"PoolID": f"pool{State.pools}", "Pool": body["Pool"] or "10.66.0.0/24", "Data": {}}
        case "IpamDriver.RequestAddress":
            if body["Options"].get("RequestAddressType") == "com.docker.network.gateway":
                return {"Address": "10.66.0.1/24"}
            return {"Address": f"{body['Address'] or '10.66.0.100'}/24"}
    return {}


class Handler(BaseHTTPRequestHandler):
    """One call."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        method = self.path.lstrip("/")
        print(json.dumps([method, body]), flush=True)
        try:
            status, result = 200, answer(method, body)
        except (subprocess.CalledProcessError, KeyError) as error:
            status, result = 500, {"Err": f"{error!r}"}
        data = json.dumps(result).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.2+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "docker"

    def log_message(self, format: str, *args: Any) -> None:
        """Calls are told on standard output."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A call that hangs holds up no other one."""

    daemon_threads = True


if __name__ == "__main__":
    Server(sys.argv[1], Handler).serve_forever()
