"""Which wheels a server can use: from what it tells of itself to pip's platform tags and uv's platform names.

PEP 600 (manylinux_2_N), PEP 656 (musllinux) and the older names (PEP 513, 571, 599)."""

from __future__ import annotations

import dataclasses
import re

from remote_launch.errors import RemoteLaunchError
from remote_launch.transport.command import mask_urls

_PYTHON = re.compile(r"3\.(\d{1,2})(?:\.(\d{1,3}))?(?:(?:a|b|rc|\+).{0,40})?\Z")
_LIBC_VERSION = re.compile(r"(\d{1,2})\.(\d{1,3})(?:[.\-].{0,40})?\Z")
_SAME_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}
_MACHINES = ("x86_64", "aarch64", "i686", "armv7l", "ppc64le", "s390x", "riscv64", "loongarch64")
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # by glibc's 2.N
_OLDEST_GLIBC = {"x86_64": 5, "i686": 5}  # others began with manylinux2014
_BEGAN = 17
# What ``uv --python-platform`` knows, for x86_64 and aarch64 alike.
_UV_GLIBC = (40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What decides which wheels fit: the Python (its patch level too, where known: some packages leave out
    single ones), the processor, the C library."""

    python: str  # "3.11" or "3.11.7"
    machine: str  # "x86_64", "aarch64" …
    libc: tuple[str, str]  # ("glibc", "2.36") or ("musl", "1.2")
    implementation: str = "cp"

    @property
    def python_tag(self) -> str:
        """Return "cp311"."""
        return self.implementation + "".join(self.python.split(".")[:2])

    def __str__(self) -> str:
        return f"Python {self.python} on {self.machine}, {' '.join(self.libc)}"


def read_platform(server: str, told: object) -> Platform:
    """Given what a server tells (machine, libc, libc_version, python_version), return its platform. Raises
    RemoteLaunchError, in the server's name, for one that no wheels are known for."""
    facts = told if isinstance(told, dict) else {}
    values = {key: facts.get(key) for key in ("machine", "libc", "libc_version", "python_version")}
    machine, libc, libc_version, python = (
        value.strip() if isinstance(value, str) and len(value) <= 60 else "" for value in values.values()
    )
    machine = _SAME_MACHINE.get(machine.lower(), machine)
    if machine not in _MACHINES:
        raise _unknown(server, "processor", values["machine"])
    # Python finds no version of musl; those before 1.2 (2020) are seldom met.
    version = _LIBC_VERSION.match(libc_version or ("1.2" if libc == "musl" else ""))
    if libc not in ("glibc", "musl") or version is None or int(version[1]) != {"glibc": 2, "musl": 1}[libc]:
        raise _unknown(server, "C library", f"{values['libc']} {values['libc_version']}")
    found = _PYTHON.match(python)
    if found is None:
        raise _unknown(server, "Python", values["python_version"])
    exact = f"3.{found[1]}" + (f".{found[2]}" if found[2] else "")
    return Platform(python=exact, machine=machine, libc=(libc, f"{version[1]}.{version[2]}"))


def _unknown(server: str, what: str, value: object) -> RemoteLaunchError:
    shown = mask_urls("".join(c if c.isprintable() else "?" for c in str(value)))[:60]
    return RemoteLaunchError(
        f"{server}: packages can't be chosen for its {what}: {shown}",
        hint="offline: true needs a Linux server with CPython 3; leave it out to install from the server's"
        " own index",
    )


def pip_platforms(platform: Platform) -> tuple[str, ...]:
    """Return the values of pip's --platform, the newest first."""
    name, version = platform.libc
    newest = int(version.split(".")[1])
    if name == "musl":
        major = version.split(".")[0]
        tags = [f"musllinux_{major}_{minor}" for minor in range(newest, -1, -1)]
    else:
        tags = []
        for minor in range(newest, _OLDEST_GLIBC.get(platform.machine, _BEGAN) - 1, -1):
            tags.append(f"manylinux_2_{minor}")
            if minor in _OLD_NAMES:
                tags.append(_OLD_NAMES[minor])
    return tuple(f"{tag}_{platform.machine}" for tag in [*tags, "linux"])


def pip_abis(platform: Platform) -> tuple[str, ...]:
    """Return the values of pip's --abi."""
    return (platform.python_tag, "abi3", "none")


def uv_platform(platform: Platform) -> str | None:
    """Return uv's --python-platform: the nearest that is not newer than the server; None when uv knows
    none."""
    name, version = platform.libc
    if platform.machine == "riscv64":
        return "riscv64-unknown-linux" if name == "glibc" else None
    if platform.machine not in ("x86_64", "aarch64"):
        return None
    newest = int(version.split(".")[1])
    if name == "musl":
        # uv's name means musl 1.2.
        return f"{platform.machine}-unknown-linux-musl" if newest >= 2 else None
    near = next((minor for minor in _UV_GLIBC if minor <= newest), None)
    return None if near is None else f"{platform.machine}-manylinux_2_{near}"
