"""Whether an installer that failed is worth another try."""

from __future__ import annotations

import re


def broke_off(output: str, words: list[str]) -> bool:
    """True when the output has one of the words, of which there are none for a step that isn't tried again.

    An old pip takes what came until a connection broke off for the whole file: its checksum is another than
    the index has in the link, or it is no archive."""
    if not words:
        return False
    named, got = re.search(r"#sha256=([0-9a-f]{64})", output), re.search(r"\bGot +([0-9a-f]{64})", output)
    cut_off = named is not None and got is not None and named.group(1) != got.group(1)
    cut_off = cut_off or re.search(r"located at \S*pip-unpack-\S* is invalid", output) is not None
    return cut_off or any(word in output for word in words)
