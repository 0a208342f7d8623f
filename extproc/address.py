"""Endpoint addresses: `ip:port`, IPv6 in brackets, the one form that Envoy's host override understands."""

from __future__ import annotations

import ipaddress


def split(address: str) -> tuple[str, int]:
    """(ip, port) of an `ip:port` or `[ipv6]:port`; the ip as Envoy writes it, without brackets.

    Raises ValueError saying what is allowed: names are not, Envoy would not find them among its hosts.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = _ip(host[1:-1] if bracketed else host)
        if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise ValueError
        if (":" in ip) is not bracketed:
            raise ValueError
    except ValueError:
        shown = repr(address if len(address) <= 80 else address[:77] + "...")
        raise ValueError(f"{shown} is not IP:PORT ([IPv6]:PORT), with a port of 1..65535") from None
    return ip, int(port)


def _ip(text: str) -> str:
    """*text* as Envoy writes that address; raises ValueError.

    Envoy compares text that inet_ntop made: `::ffff:1.2.3.4`, where Python < 3.13 makes `::ffff:102:304`.
    """
    ip = ipaddress.ip_address(text)
    if "%" in text:
        raise ValueError("an IPv6 zone, which Envoy does not know")
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(ip)


def join(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def normalise(address: str) -> str:
    """*address* in the one spelling that addresses are compared in; raises ValueError."""
    return join(*split(address))


def hint(item: str) -> str | None:
    """One item of a subset hint, `ip` or `ip:port`, normalised; None where it is neither."""
    item = item.strip()
    try:
        return normalise(item)
    except ValueError:
        pass
    try:
        return _ip(item[1:-1] if item.startswith("[") and item.endswith("]") else item)
    except ValueError:
        return None


def hints(value: str | list[str] | None) -> frozenset[str] | None:
    """A subset hint (list or comma string, or a list of comma strings) as a set; None: no hint was given.

    An empty set allows nothing; an item that is no address allows nothing either.
    """
    if value is None:
        return None
    items = [value] if isinstance(value, str) else value
    found = (hint(part) for item in items for part in item.split(","))
    return frozenset(address for address in found if address is not None)


def common(one: frozenset[str] | None, other: frozenset[str]) -> frozenset[str]:
    """What two hints allow both; an `ip` stands for all of its ports."""
    if one is None:
        return other
    return frozenset(_within(one, other) | _within(other, one))


def _within(some: frozenset[str], allowed: frozenset[str]) -> set[str]:
    return {item for item in some if item in allowed or _ip_of(item) in allowed}


def _ip_of(item: str) -> str:
    """Of a normalised hint."""
    try:
        return split(item)[0]
    except ValueError:
        return item
