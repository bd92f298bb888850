"""Connections to public addresses only: the address that is checked is the one that is connected to.

A name is resolved once and every address it has must be public (RFC 6890), so neither a name that changes between
check and use (DNS rebinding) nor one of several addresses leads inside.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore

_TRANSLATED = [
    ipaddress.ip_network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
]
"""IPv6 networks whose addresses stand for IPv4 ones: NAT64, 6to4, Teredo, IPv4-compatible."""


class TargetRefused(ValueError):
    """It is not a public address."""


def is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.is_site_local or any(ip in network for network in _TRANSLATED):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def resolve(host: str, port: int, *, allow_private: bool) -> str:
    """One address of a host.

    Raises:
        TargetRefused: one of its addresses is not public.
        OSError: it has none.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not allow_private and not all(is_public(address) for address in found):
        raise TargetRefused("the target is a private address; ALERT_PRIVATE_TARGETS=true allows it")
    return found[0]


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to the very address that was checked. TLS still verifies the name."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        address = resolve(host, port, allow_private=self._allow_private)
        return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
