from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remote_launch.transport.requirements import (
    absolute_includes,
    content_digest,
    joined_lines,
    local_path,
    read_requirements,
)

if TYPE_CHECKING:
    from pathlib import Path


def digest(folder: Path) -> str:
    return content_digest(read_requirements(folder / "requirements.txt", base=folder))


def test_included_files_are_found_from_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "requirements.txt").write_text("-r more/a.txt\n--constraint=limits.txt\n-r https://x/y.txt\n")
    (tmp_path / "more" / "a.txt").write_text("-rb.txt\n-r ../requirements.txt\nsix\n")
    (tmp_path / "more" / "b.txt").write_text("seven\n")
    (tmp_path / "limits.txt").write_text("six<2\n")
    found = read_requirements(tmp_path / "requirements.txt", base=tmp_path)
    names = ["requirements.txt", "more/a.txt", "more/b.txt", "limits.txt"]
    assert [str(path.relative_to(tmp_path)) for path in found.files] == names


def test_hashes_by_name(tmp_path: Path) -> None:
    text = "Foo_Bar==1 \\\n  --hash=sha256:aa \\\n  --hash sha256:bb\nsix==1  # --hash=sha256:cc\n"
    (tmp_path / "requirements.txt").write_text(text)
    found = read_requirements(tmp_path / "requirements.txt", base=tmp_path)
    assert found.hashes == {"foo-bar": ("sha256:aa", "sha256:bb")}


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("./libs/a", "libs/a"),
        ("-e ./libs/a", "libs/a"),
        ("--editable=.", "."),
        ("libs/a[extra]", "libs/a"),
        ("a-1.0-py3-none-any.whl", "a-1.0-py3-none-any.whl"),
        ("six==1.16", None),
        ("six @ https://host/six.whl", None),
        ("git+https://host/six", None),
        ("-r more.txt", None),
    ],
)
def test_local_paths(tmp_path: Path, line: str, path: str | None) -> None:
    assert local_path(line, tmp_path) == (None if path is None else tmp_path / path)


def test_local_paths_as_urls(tmp_path: Path) -> None:
    assert local_path(f"a @ file://{tmp_path}/a%20b", tmp_path) == tmp_path / "a b"


def test_what_counts_is_what_they_say(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.py").write_text("1\n")
    file.write_text("six\n./mine\n")
    first = digest(tmp_path)
    file.write_text("# a word\nsix   # and another\n\n./mine\n")
    (tmp_path / "mine" / "__pycache__").mkdir()
    (tmp_path / "mine" / "__pycache__" / "a.pyc").write_text("x")
    assert digest(tmp_path) == first
    (tmp_path / "mine" / "a.py").write_text("12\n")
    second = digest(tmp_path)
    file.write_text("six\n./mine\nseven\n")
    assert len({first, second, digest(tmp_path)}) == 3


def test_text_that_lies_elsewhere(tmp_path: Path) -> None:
    text = absolute_includes("-r a.txt  # why\nsix\n-c https://x/c.txt\n", tmp_path)
    assert list(joined_lines(text)) == [f"-r {tmp_path}/a.txt", "six", "-c https://x/c.txt"]
