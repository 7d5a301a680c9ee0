"""
Which links to pictures may be followed?

An answer is not to be trusted with the addresses of a private network.
"""

from __future__ import annotations

import ipaddress
import socket

import anyio
import httpx

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_AZURE_PLATFORM = ipaddress.IPv4Address("168.63.129.16")
"""Looks public, and only ever means the platform under a virtual machine."""


class BadLinkError(Exception):
    """A link that is not followed, and why."""


def joined(link: httpx.URL, location: str) -> str:
    """Where a redirect leads."""
    try:
        return str(link.join(location))
    except httpx.InvalidURL as error:
        raise BadLinkError(f"a redirect to something that is no URL: {error}") from error


def parsed(url: str) -> httpx.URL:
    """The parts of an http(s) link without a name or a password in it."""
    try:
        link = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadLinkError(f"not a URL: {error}") from error
    if link.scheme not in {"http", "https"} or not link.host or link.userinfo:
        raise BadLinkError("not a link to a picture")
    return link


def shown(url: str) -> str:
    """A link as it may be told: what follows the path is often a signature."""
    try:
        link = httpx.URL(url)
    except httpx.InvalidURL:
        return "a link"
    return f"{link.scheme}://{link.netloc.decode('ascii')}{link.path}"[:200]


async def public_addresses(host: str, port: int, *, proxied: bool) -> list[str]:
    """The addresses of a host, all of them public; none for a name that a proxy is to look up."""
    flags = socket.AI_NUMERICHOST if proxied else 0
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror:
        if not proxied:
            raise
        if f".{host}".rstrip(".").endswith((".localhost", ".local", ".internal")):
            raise BadLinkError("the link leads into a private network") from None
        return []
    addresses = [str(entry[4][0]) for entry in found]
    if not all(map(_public, addresses)):
        raise BadLinkError("the link leads into a private network")
    return addresses


def _public(address: str) -> bool:
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast and ip != _AZURE_PLATFORM
