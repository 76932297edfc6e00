"""What a verb is asked for: one JSON object on stdin."""

from __future__ import annotations

import json
import os

from .jobdir import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REQUEST_LIMIT_BYTES = 128 << 20  # a list of files can be long


def read_request() -> dict[str, Any]:
    """Return the object on stdin. Raises Refusal for anything else, so for what a broken connection cut
    off."""
    content = os.fdopen(0, "rb", closefd=False).read(REQUEST_LIMIT_BYTES + 1)
    if len(content) > REQUEST_LIMIT_BYTES:
        raise Refusal("RequestError", f"the request is larger than {REQUEST_LIMIT_BYTES} bytes")
    try:
        request = json.loads(content)
    except (ValueError, RecursionError):
        raise Refusal(
            "RequestError", "the request is not whole: the connection may have ended in the middle"
        ) from None
    if not isinstance(request, dict):
        raise Refusal("RequestError", "the request is not a JSON object")
    return request
