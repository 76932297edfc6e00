from __future__ import annotations

import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from remote_launch.transport import programs_here

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _look_afresh() -> Iterator[None]:
    programs_here.forget()
    yield
    programs_here.forget()


def _fake_uv_package(monkeypatch: pytest.MonkeyPatch, find: object) -> None:
    module = types.ModuleType("uv")
    module.find_uv_bin = find  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uv", module)
    monkeypatch.setenv("PATH", "/nonexistent")


def test_the_package_s_uv_is_looked_up_by_one_thread_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "uv"
    binary.write_text("")
    inside, calls, together = threading.Semaphore(1), [], threading.Barrier(8)

    def find_uv_bin() -> str:
        if not inside.acquire(blocking=False):  # sysconfig's lazy set-up, entered twice
            raise TypeError('can only concatenate str (not "NoneType") to str')
        threading.Event().wait(0.05)  # long enough for the other threads to come
        calls.append(1)
        inside.release()
        return str(binary)

    _fake_uv_package(monkeypatch, find_uv_bin)

    def look(_: int) -> Path | None:
        together.wait(60)
        return programs_here.uv_here()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(look, range(8))) == {binary}
    assert len(calls) == 1


def test_uv_on_path_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _fake_uv_package(monkeypatch, lambda: "/elsewhere/uv")
    binary = tmp_path / "uv"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs_here.uv_here() == binary.resolve()


def test_none_where_there_is_no_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_uv_bin() -> str:
        raise FileNotFoundError("uv")

    _fake_uv_package(monkeypatch, find_uv_bin)
    assert programs_here.uv_here() is None
