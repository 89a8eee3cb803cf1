"""Which hosts the relay may connect to on behalf of others.

A session's addresses come from whoever may call the API, so without rules the relay is a way
into the network it stands in. Two questions are asked of the same rules: of the name, when an
address is given (`check_name`), and of what the name resolves to, when connecting
(`allows_address`); the second is the one that a DNS server of the caller's can't talk around.
"""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from yarl import URL

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

PROTECTED: tuple[IpNetwork, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local; metadata of AWS, Azure, Google and most others
        "fe80::/10",  # link-local
        "fd00:ec2::/32",  # metadata of AWS over IPv6
        "fd20:ce::254/128",  # of Google over IPv6
        "100.100.100.200/32",  # of Alibaba
        "168.63.129.16/32",  # Azure's host
        "192.0.0.192/32",  # metadata of Oracle
    )
)
"""Where machines keep what is for themselves alone; a rule has to name them to open them."""

HOSTS_REMEMBERED = 256
"""That were allowed; the names of others are not kept."""
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052, section 2.1
_NAME = re.compile(r"(\*\.)?[^\s:/@\[\]*?#%]{1,253}")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


class HostNotAllowedError(PermissionError):
    """The relay may not connect there. An OSError, so that an HTTP client takes it for a
    connection that could not be made; `strerror` says what to do."""

    strerror: str

    def __init__(self, host: str) -> None:
        super().__init__(
            errno.EACCES,
            f"the relay may not connect to {host[:100]}: its operator can allow it with"
            " RELAY_ALLOWED_HOSTS",
        )


@dataclass(frozen=True, slots=True)
class HostRule:
    """One entry: a name, a name's subdomains, or a network; perhaps one port of it."""

    name: str | None = None
    """Lower case; with ``*.`` in front everything below it, ``*`` alone for any host."""
    network: IpNetwork | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """``name``, ``*.name``, ``*``, an address or a CIDR network, each with ``:port`` or not;
        IPv6 with a port stands in brackets.

        Raises:
            ValueError: what is wrong, in words that follow a setting's name.
        """
        host, port = _split_port(text.strip())
        network = _network(host)
        if network is not None:
            return cls(network=network, port=port)
        name = host.lower().rstrip(".")
        looks_numeric = "/" in name or _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2])
        if name != "*" and (looks_numeric or not _NAME.fullmatch(name)):
            raise ValueError(
                "must be host names, *.names, addresses or networks as in 10.0.0.0/8, each"
                f" perhaps with :port; {text[:60]!r} is none"
            )
        return cls(name=_ascii(name), port=port)

    def covers_name(self, name: str, port: int) -> bool:
        if self.name is None or self.port not in (None, port):
            return False
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return self.name in ("*", name)

    def covers_address(self, address: IpAddress, port: int) -> bool:
        return self.port in (None, port) and self.holds(address)

    def holds(self, address: IpAddress) -> bool:
        """As `covers_address`, on whatever port."""
        if self.network is None:
            return self.name == "*"
        return address.version == self.network.version and address in self.network

    @property
    def opens_protected(self) -> bool:
        """Whether it names a protected address, rather than holding it among others."""
        return self.network is not None and any(
            self.network.version == protected.version and self.network.subnet_of(protected)  # type: ignore[arg-type]
            for protected in PROTECTED
        )


class HostRules:
    """All rules together.

    Args:
        allowed: rules as text; none allows every host but the protected addresses.
        own: URLs of the operator's own choice, allowed along with the rules.

    Raises:
        ValueError: a rule can't be read.
    """

    def __init__(self, allowed: Iterable[str] = (), own: Sequence[str] = ()) -> None:
        rules = [HostRule.parse(text) for text in allowed]
        if rules:
            rules += [_rule_of(url) for url in own]
        self._rules = tuple(rules or [HostRule(name="*"), *map(_rule_of, own)])
        self._own = {(URL(url).host, URL(url).port) for url in own}
        # Each segment asks for the host of the one before.
        self._check = lru_cache(HOSTS_REMEMBERED)(self._check_host)

    def is_own(self, url: str | URL) -> bool:
        """Whether the operator named this server."""
        return (URL(url).host, URL(url).port) in self._own

    def check_url(self, url: str | URL) -> bool:
        """Refuse an address whose host can't be one that is allowed.

        Returns:
            False for a name that only a rule for networks may allow: what it resolves to decides.

        Raises:
            HostNotAllowedError: it is not.
        """
        parsed = URL(url)
        return self._check(parsed.host or "", parsed.port or 0)

    def _check_host(self, host: str, port: int) -> bool:
        address = _address(host)
        if address is not None:
            if self.allows_address(host, address, port):
                return True
        elif not _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]):
            if self._allows_name(host, port):
                return True
            if any(rule.network is not None and rule.port in (None, port) for rule in self._rules):
                return False
        # What looks like a number is an address in disguise: 2130706433, 127.1, 0x7f.1.
        raise HostNotAllowedError(host)

    def allows_address(self, host: str, address: IpAddress, port: int) -> bool:
        """Whether to connect to `address`, which is what `host` stands for."""
        every = _meant(address)
        if _is_protected(every):
            return any(r.opens_protected and r.covers_address(every[0], port) for r in self._rules)
        return self._allows_name(host, port) or any(
            all(rule.covers_address(a, port) for a in every) for rule in self._rules
        )

    def allows_media(self, address: IpAddress, *, of_server: bool) -> bool:
        """Whether to send media to `address`, which a server's WebRTC answer names. Media's ports
        are new each time, so rules for one port count for all.

        Args:
            of_server: it is the address of the server itself, or that server is the operator's.
        """
        every = _meant(address)
        if any(a.is_multicast or a.is_unspecified or a == _BROADCAST for a in every):
            return False
        if _is_protected(every):
            return any(r.opens_protected and r.holds(every[0]) for r in self._rules)
        return of_server or any(all(rule.holds(a) for a in every) for rule in self._rules)

    def _allows_name(self, host: str, port: int) -> bool:
        if _address(host) is not None:
            return False
        name = _ascii(host.lower().rstrip("."))
        return any(rule.covers_name(name, port) for rule in self._rules)


def _split_port(text: str) -> tuple[str, int | None]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif text.count(":") == 1 and "/" not in text.partition(":")[2]:
        host, _, port = text.partition(":")
    else:
        return text, None
    if port is None:
        return host, None
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError(f"has a port that is not a number from 1 to 65535 in {text[:60]!r}")
    return host, int(port)


def _network(host: str) -> IpNetwork | None:
    try:
        return ipaddress.ip_network(host, strict=False)
    except ValueError:
        return None


def _address(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _embedded(address: IpAddress) -> list[IpAddress]:
    """IPv4 addresses that an IPv6 one leads to: 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[IpAddress] = [address.sixtofour] if address.sixtofour is not None else []
    if address.teredo is not None:
        found.append(address.teredo[1])
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def _meant(address: IpAddress) -> list[IpAddress]:
    """An address, plain, and those that it leads to."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return [address, *_embedded(address)]


def _is_protected(addresses: Iterable[IpAddress]) -> bool:
    return any(a.version == p.version and a in p for a in addresses for p in PROTECTED)


def _rule_of(url: str) -> HostRule:
    parsed = URL(url)
    host = parsed.host or ""
    network = _network(host)
    name = None if network is not None else _ascii(host.lower().rstrip("."))
    return HostRule(name=name, network=network, port=parsed.port)


def _ascii(name: str) -> str:
    """As it goes over the wire, so that both ways of writing a name are the same name."""
    try:
        return name.encode("idna").decode("ascii") if not name.isascii() else name
    except UnicodeError:
        return name
