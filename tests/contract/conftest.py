"""What several files of this ring need."""

from __future__ import annotations

from typing import Any

import paramiko
import pytest


@pytest.fixture
def patient_paramiko(monkeypatch: pytest.MonkeyPatch) -> float:
    """Have paramiko by itself wait much longer for a server than this machine ever pauses (it is 15 s);
    return how long."""
    patience_s = 300.0
    make: Any = paramiko.Transport.__init__

    def init(transport: paramiko.Transport, *words: Any, **more: Any) -> None:
        make(transport, *words, **more)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = patience_s

    monkeypatch.setattr(paramiko.Transport, "__init__", init)
    return patience_s
