"""Requirements that are folders of the project."""

from __future__ import annotations

import pytest

from remote_launch.core.environments.local_folders import build_files, folder_of


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("-e ./lib", "lib"), ("-e lib", "lib"), ("-elib", "lib"), ("--editable=./libs/a", "libs/a"),
        ("--editable libs/a/", "libs/a"), ("-e ./lib[dev,gpu]", "lib"), ("-e './lib'", "lib"), ("-e .", "."),
        ("-e ./lib ; python_version > '3.8'", "lib"), ("./lib", "lib"), ("./lib ; os_name == 'posix'", "lib"),
        ("file:./lib", "lib"), ("mine @ file:./lib", "lib"), ("mine[x] @ file:lib", "lib"),
        ("-e file:./lib#egg=lib", "lib"), ("./lib --hash=sha256:00", "lib"),
        ("numpy", None), ("numpy>=2 ; os_name == 'x'", None), ("-e git+https://host/x.git#egg=x", None),
        ("-e /opt/lib", None), ("-e ~/lib", None), ("-e ../beside", None), ("-e file:///opt/lib", None),
        ("mine @ https://host/x.whl", None), ("-e ${HOME}/lib", None), ("", None), ("-r ./more.txt", None),
        ("--find-links ./wheels", None),
    ],
)  # fmt: skip
def test_which_folder(line: str, folder: str | None) -> None:
    assert folder_of(line) == folder


def test_only_what_is_sent_counts() -> None:
    sent = {"lib/setup.py", "lib/pyproject.toml", "lib/code.py", "other/setup.py", "setup.cfg"}
    lines = ["-e ./lib", "six", "-e ./lib[x]", "./missing", "-e ."]
    assert build_files(lines, sent) == ("lib/pyproject.toml", "lib/setup.py", "setup.cfg")
