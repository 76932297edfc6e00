"""The addresses of this machine's interfaces, from getifaddrs(3). Apart from ``machine``, as ctypes takes
5 ms to import."""

from __future__ import annotations

import ctypes
import socket
import struct

_WHERE = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}  # of the address in a sockaddr: offset, size


class _IfAddrs(ctypes.Structure):
    """struct ifaddrs of getifaddrs(3), as far as it is read here."""


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)), ("name", ctypes.c_char_p), ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p), ("netmask", ctypes.c_void_p),
]


def addresses() -> list[tuple[str, str, int, int]]:
    """Return (interface, address, prefix length, the interface's flags) of all interfaces' addresses;
    secondary addresses too, which the older ioctls leave out."""
    libc = ctypes.CDLL(None)
    head = ctypes.POINTER(_IfAddrs)()
    if libc.getifaddrs(ctypes.byref(head)):
        return []
    found = []
    entry = head
    try:
        while entry:
            item = entry.contents
            if item.address:
                family = struct.unpack("=H", ctypes.string_at(item.address, 2))[0]
                if family in _WHERE:
                    at, size = _WHERE[family]
                    mask = ctypes.string_at(item.netmask + at, size) if item.netmask else b"\xff" * size
                    found.append((
                        item.name.decode("utf-8", "replace"),
                        socket.inet_ntop(family, ctypes.string_at(item.address + at, size)),
                        sum(bin(byte).count("1") for byte in mask), item.flags,
                    ))
            entry = item.next
    finally:
        libc.freeifaddrs(head)
    return found
