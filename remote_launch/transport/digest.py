"""A hash for names, without OpenSSL: hashlib would load it, 5 ms at the start of every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import blake2b
else:
    try:
        from _blake2 import blake2b  # hashlib's own
    except ImportError:
        from hashlib import blake2b

__all__ = ["blake2b"]
