"""password and password_command: which one holds, what they mean, and that they are shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_launch.core.inventory import Inventory, parse_inventory
from remote_launch.core.project import Project
from remote_launch.errors import ConfigError


def parse(text: str) -> Inventory:
    return parse_inventory(f"name: p\n{text}", Project(root=Path("/p")))


def test_a_command_means_fabric_and_is_in_no_repr() -> None:
    inventory = parse("servers: {a: {hostname: h, password_command: show s3cret}}")
    server = inventory.servers["a"]
    assert (server.transport, server.target.password_command) == ("fabric", "show s3cret")
    assert "s3cret" not in f"{server!r} {server.target!r} {inventory!r}"


@pytest.mark.parametrize(
    ("defaults", "own", "expected"),
    [
        ("password: d", "", ("d", None)),
        ("password: d", "password_command: c", (None, "c")),
        ("password_command: c", "password: o", ("o", None)),
        ("password: d", "password: null", (None, None)),
        ("", "password: o, password_command: c", ("o", "c")),
    ],
)
def test_a_servers_own_way_stands_for_both_of_the_defaults(
    defaults: str, own: str, expected: tuple[str | None, str | None]
) -> None:
    entry = ", ".join(part for part in ("hostname: h", own) if part)
    server = parse(f"defaults: {{{defaults}}}\nservers: {{a: {{{entry}}}}}").servers["a"]
    assert (server.password, server.password_command) == expected


@pytest.mark.parametrize("key", ["password", "password_command"])
def test_openssh_takes_neither(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: transport openssh can't log in by password") as caught:
        parse(f"servers: {{a: {{hostname: h, transport: openssh, {key}: s3cret}}}}")
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("servers:\n  a: {hostname: h}\n", None),
        ("servers:\n  a: h\n  b:\n    hostname: h\n    password: x\n", 6),
        ("defaults:\n  password: x\nservers:\n  a: {hostname: h, password: y}\n", 3),
        ("servers:\n  a: {hostname: h, password: }\n", None),
        ("servers:\n  a: {hostname: h, password_command: x}\n", None),
    ],
)
def test_the_line_of_the_first_password(text: str, line: int | None) -> None:
    assert parse(text).password_line == line
