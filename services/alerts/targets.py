"""Connections to public addresses only: the address that is checked is the one that is connected to.

A name is resolved once and every address it has must be public (RFC 6890), so neither a name that changes between
check and use (DNS rebinding) nor one of several addresses leads inside.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
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
    """Connects to the very address that was checked. TLS still verifies the name.

    Args:
        until: when connections end, in the time of `time.monotonic`: no receiver holds one by answering slowly.
    """

    def __init__(self, *, allow_private: bool, until: float) -> None:
        self._allow_private, self._until = allow_private, until
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
        stream = self._inner.connect_tcp(address, port, _left(self._until, timeout), local_address, socket_options)
        return _EndingStream(stream, self._until)


class _EndingStream(httpcore.NetworkStream):
    """Each read and write has the time that is left of the whole, as a limit for each alone is none for the sum."""

    def __init__(self, stream: httpcore.NetworkStream, until: float) -> None:
        self._stream, self._until = stream, until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._until, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._until, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _EndingStream(
            self._stream.start_tls(ssl_context, server_hostname, _left(self._until, timeout)), self._until
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(until: float, timeout: float | None) -> float:
    left = max(until - time.monotonic(), 0.001)
    return left if timeout is None else min(left, timeout)
