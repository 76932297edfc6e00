from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import pytest

from remote_launch.core.forwards import ForwardBook, ForwardRecord
from remote_launch.core.project import Project

if TYPE_CHECKING:
    from pathlib import Path

RECORD = ForwardRecord(
    server="gpu-a", local_port=6007, remote_port=6006, started_at=1.5,
    machine="laptop", pid=7, background=True,
)  # fmt: skip


@pytest.fixture
def book(tmp_path: Path) -> ForwardBook:
    (tmp_path / ".remote").mkdir()
    return ForwardBook(Project(root=tmp_path))


def test_what_is_written_is_read(book: ForwardBook) -> None:
    other = dataclasses.replace(RECORD, remote_host="10.0.0.7", ended_at=3, socket="/x", background=False)
    with book.change() as records:
        records += [RECORD, other]
    assert book.read() == [RECORD, other]
    with book.change() as records:
        records.remove(RECORD)
    assert book.read() == [other]


@pytest.mark.parametrize("text", ["", "{", "7", "[7, {}]", '[{"server": 3}]', "[" * 100_000])
def test_what_can_not_be_read_is_left_out(book: ForwardBook, text: str) -> None:
    book.path.write_text(text)
    assert book.read() == []
    with book.change() as records:
        records.append(RECORD)
    assert book.read() == [RECORD]


def test_many_at_once_lose_nothing(book: ForwardBook) -> None:
    def add(number: int) -> None:
        with book.change() as records:
            records.append(dataclasses.replace(RECORD, pid=number))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {record.pid for record in book.read()} == set(range(20))


def test_an_error_within_changes_nothing(book: ForwardBook) -> None:
    def break_off() -> None:
        with book.change() as records:
            records.append(RECORD)
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert book.read() == []


def test_in_words() -> None:
    assert RECORD.url == "http://127.0.0.1:6007"
    assert RECORD.command == "rl forward gpu-a 6007:6006 --background"
    far = dataclasses.replace(RECORD, local_port=6006, remote_host="10.0.0.7", background=False)
    assert far.to == "10.0.0.7:6006"
    assert far.command == "rl forward gpu-a 6006 --to 10.0.0.7"
