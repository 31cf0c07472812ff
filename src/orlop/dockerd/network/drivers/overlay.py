# SPDX-License-Identifier: Apache-2.0
"""The overlay driver without Swarm: bridges of several hosts joined by VXLAN tunnels between static peers.

The same command on each host makes the same network. Every host's bridge has the gateway's address and MAC, so
that containers leave through their own host; what comes out of the tunnel in the gateway's name is dropped.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, Sequence
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from orlop.dockerd.network import hostlinks, ipam, linkkinds, options, rtnetlink, vxlan_rules, xfrm
from orlop.dockerd.network.drivers.bridge import BridgeDriver
from orlop.dockerd.network.firewall import BridgeRules
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.types import Network, NetworkConfig
from orlop.engine.types import NetworkCreateRequest
from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError, PermissionDeniedError

PEERS, VNI, PORT, LOCAL, ENCRYPTED, KEY_FILE = "peers", "id", "port", "local", "encrypted", "key-file"
_DEFAULT_PORT = 4789
_MTU = 1450
"""An Ethernet frame of 1500 bytes without the tunnel's headers: Ethernet 14, VXLAN 8, UDP 8, IPv4 20."""
_ENCRYPTED_MTU = _MTU - 60
"""Without ESP's, too: header 8, IV 16, at most 17 of padding and its length, ICV 16."""
_KEY_BYTES = 32


class OverlayDriver(BridgeDriver):
    """`peers`: the addresses of all hosts, this one among them or not; `id`: the tunnel's number (VNI), which
    follows from the network's name where it is not given; `port`: UDP; `local`: this host's address;
    `encrypted`, with the secret in `key-file`: by IPsec.
    """

    name = "overlay"
    options = options.BRIDGE | {PEERS, VNI, PORT, LOCAL, ENCRYPTED, KEY_FILE}

    def plan(self, network: Network, request: NetworkCreateRequest) -> None:
        """Check the options; the gateway is the subnet's first address on every host."""
        if not request.options.get(PEERS):
            raise NotImplementedByUsError(
                "This node is not a swarm manager: an overlay network without a swarm needs its members: "
                "-o peers=ADDRESS,ADDRESS"
            )
        super().plan(network, request)
        peers(network)
        vni(network)
        port(network)
        local(network)
        if is_encrypted(network) != (KEY_FILE in network.options):
            raise InvalidArgumentError(f"{ENCRYPTED} and {KEY_FILE}=PATH go together")
        for version, subnet in ((4, network.subnet), (6, network.subnet6)):
            wanted = network.enable_ipv4 if version == 4 else network.enable_ipv6
            if wanted and not subnet:
                raise InvalidArgumentError(
                    "an overlay network needs the same --subnet on every host"
                    + (": an IPv6 one, too" if version == 6 else "")
                )
        network.gateway = network.gateway or (str(ip_network(network.subnet)[1]) if network.subnet else "")
        network.gateway6 = network.gateway6 or (str(ip_network(network.subnet6)[1]) if network.subnet6 else "")

    def settle(self, network: Network, others: Iterable[Network]) -> None:
        """No two networks have one tunnel."""
        known = list(others)
        super().settle(network, known)
        for other in known:
            if other.driver == self.name and (vni(other), port(other)) == (vni(network), port(network)):
                raise PermissionDeniedError(
                    f"cannot create network {network.id}: conflicts with network {other.id} ({other.name}): "
                    f"both have the VXLAN id {vni(network)} at port {port(network)}"
                )
            alone = is_encrypted(other) or is_encrypted(network)
            if other.driver == self.name and alone and port(other) == port(network):
                raise PermissionDeniedError(
                    f"cannot create network {network.id}: conflicts with network {other.id} ({other.name}): an "
                    f"encrypted network has a port of its own: -o {PORT}="
                )

    def adopt(self, kernel: Kernel, network: Network, others: Iterable[Network]) -> None:
        """Find out which of the peers this host is, and with that its part of the subnet."""
        super().adopt(kernel, network, others)
        own = {str(address.ip) for _, address in kernel.route.addresses()}
        members = peers(network)
        if not local(network):
            mine = [member for member in members if member in own]
            if len(mine) > 1:
                raise InvalidArgumentError(
                    f"several of the peers are this host ({', '.join(mine)}): say -o {LOCAL}="
                )
            if mine:
                network.options[LOCAL] = mine[0]
        elif local(network) not in own:
            raise InvalidArgumentError(f"invalid {LOCAL}: {local(network)} is no address of this host")
        if not others_of(network):
            raise InvalidArgumentError(f"invalid {PEERS}: no other host than this one")
        if is_encrypted(network):
            _secret(network)
            if not local(network):
                raise InvalidArgumentError(f"an encrypted network needs this host's address: -o {LOCAL}=")
        network.ip_range = network.ip_range or _part(network, network.subnet)
        network.ip_range6 = network.ip_range6 or _part(network, network.subnet6)

    def set_up(self, kernel: Kernel, network: Network, config: NetworkConfig) -> None:
        """Make the bridge and the tunnel."""
        super().set_up(kernel, network, config)
        if is_encrypted(network):
            _encrypt(network)
        name = tunnel(network)
        if hostlinks.find(kernel, name) is not None:
            return
        message = linkkinds.vxlan_new(
            name,
            vni=vni(network),
            port=port(network),
            local=local(network),
            bridge=socket.if_nametoindex(network.bridge),
            mac="02:" + ":".join(f"{byte:02x}" for byte in sha256((network.id + name).encode()).digest()[:5]),
            mtu=self.mtu(network),
        )
        kernel.route.request(message)
        index = socket.if_nametoindex(name)
        kernel.route.request(*(linkkinds.flood_to(index, peer) for peer in others_of(network)))
        if not options.boolean(network.options, options.ICC):
            kernel.route.request(rtnetlink.port_set(index, hairpin=False, isolated=True))

    def unset(self, kernel: Kernel, network: Network) -> None:
        """Forget IPsec's settings."""
        if is_encrypted(network):
            with contextlib.suppress(InvalidArgumentError):  # without the key nobody knows which they are
                for each, outgoing in _directions(network):
                    xfrm.unprotect(each, outgoing=outgoing)

    def take_down(self, network: Network, others: Iterable[Network]) -> Sequence[str]:
        """The tunnel, and the bridge if it was made for this network."""
        return (tunnel(network), *super().take_down(network, others))

    def rules(self, network: Network) -> BridgeRules | None:
        """A bridge's, and those that guard the tunnel."""
        rules = super().rules(network)
        assert rules is not None
        gateways = tuple(each for each in (network.gateway, network.gateway6) if each)
        guard = vxlan_rules.Tunnel(
            tunnel(network),
            vni(network),
            port(network),
            self.mac(network),
            gateways,
            others_of(network),
            is_encrypted(network),
        )
        return rules._replace(guards=(vxlan_rules.guard(guard),))

    def mtu(self, network: Network) -> int:
        """As the options say, else what is left of an Ethernet frame."""
        return options.mtu(network.options) or (_ENCRYPTED_MTU if is_encrypted(network) else _MTU)

    def mac(self, network: Network) -> str:
        """The same on every host."""
        return ipam.mac_of(ip_address(network.gateway or network.gateway6))


def tunnel(network: Network) -> str:
    """The name of the tunnel's interface."""
    return f"vx-{network.id[:12]}"


def peers(network: Network) -> tuple[str, ...]:
    """The addresses of the hosts. Raises InvalidArgumentError."""
    found = [_address(PEERS, text.strip()) for text in network.options[PEERS].split(",") if text.strip()]
    if len({":" in address for address in found}) != 1:
        raise InvalidArgumentError(f"invalid {PEERS}: addresses of one family are expected")
    return tuple(dict.fromkeys(found))


def others_of(network: Network) -> tuple[str, ...]:
    """The addresses of the other hosts."""
    return tuple(peer for peer in peers(network) if peer != local(network))


def vni(network: Network) -> int:
    """The number of the tunnel. Raises InvalidArgumentError."""
    if VNI not in network.options:
        return int.from_bytes(sha256(network.name.encode()).digest()[:3], "big") or 1
    return _number(network, VNI, (1 << 24) - 1)


def port(network: Network) -> int:
    """The UDP port. Raises InvalidArgumentError."""
    return _number(network, PORT, 65535) if PORT in network.options else _DEFAULT_PORT


def local(network: Network) -> str:
    """This host's address; empty if it is not known. Raises InvalidArgumentError."""
    text = network.options.get(LOCAL, "")
    return _address(LOCAL, text) if text else ""


def is_encrypted(network: Network) -> bool:
    """Whether the option says so; its value may be empty, as in Docker. Raises InvalidArgumentError."""
    return options.boolean(network.options, ENCRYPTED, default=False)


def _encrypt(network: Network) -> None:
    try:
        for each, outgoing in _directions(network):
            xfrm.protect(each, outgoing=outgoing)
    except OSError as error:
        raise OSError(
            error.errno,
            "the kernel cannot encrypt: it needs ESP, AES-CBC and HMAC-SHA-256 (modules xfrm_user, esp4, esp6): "
            f"{error.strerror}",
            error.filename or "IPsec",
        ) from None


def _directions(network: Network) -> list[tuple[xfrm.Tunnel, bool]]:
    """Each direction to and from each other host, and whether it is an outgoing one."""
    own, secret = local(network), _secret(network)
    found = []
    for peer in others_of(network):
        found.append((xfrm.Tunnel(own, peer, port(network), secret), True))
        found.append((xfrm.Tunnel(peer, own, port(network), secret), False))
    return found


def _secret(network: Network) -> bytes:
    path = network.options[KEY_FILE]
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise InvalidArgumentError(f"invalid {KEY_FILE}: others than its owner may read {path}: chmod 600")
            secret = file.read(4096).strip()
    except OSError as error:
        raise InvalidArgumentError(f"invalid {KEY_FILE}: {path}: {error.strerror}") from None
    if len(secret) < _KEY_BYTES:
        raise InvalidArgumentError(f"invalid {KEY_FILE}: {path} has less than {_KEY_BYTES} bytes")
    return secret


def _number(network: Network, name: str, largest: int) -> int:
    text = network.options[name]
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= largest:
        raise InvalidArgumentError(f"invalid {name}: {text!r} is not a number from 1 to {largest}")
    return int(text)


def _address(name: str, text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise InvalidArgumentError(f"invalid {name}: {text!r} is not an ip address") from None


def _part(network: Network, subnet: str) -> str:
    """The part of a subnet that this host gives out: there are as many equal parts as hosts, in the order of the
    hosts' addresses. Raises InvalidArgumentError."""
    if not subnet:
        return ""
    members = sorted(peers(network), key=lambda address: int(ip_address(address)))
    if local(network) not in members:
        raise InvalidArgumentError(
            "an overlay network needs to know which addresses this host gives out: say its part of the subnet "
            "with --ip-range, or name this host's own address among the peers"
        )
    whole: IPv4Network | IPv6Network = ip_network(subnet)
    bits = (len(members) - 1).bit_length()
    if whole.max_prefixlen - whole.prefixlen - bits < 2:
        raise InvalidArgumentError(f"subnet {subnet} is too small for {len(members)} hosts")
    size = 1 << (whole.max_prefixlen - whole.prefixlen - bits)
    first = whole.network_address + members.index(local(network)) * size
    return f"{first}/{whole.prefixlen + bits}"
