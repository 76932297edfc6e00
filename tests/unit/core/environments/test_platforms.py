from __future__ import annotations

import platform as this_machine

import pytest

from remote_launch.core.environments.platforms import (
    Platform,
    pip_abis,
    pip_platforms,
    read_platform,
    uv_platform,
)
from remote_launch.errors import RemoteLaunchError


def told(**changes: object) -> dict[str, object]:
    facts = {"machine": "x86_64", "libc": "glibc", "libc_version": "2.36", "python_version": "3.11.2"}
    return {**facts, **changes}


def platform(machine: str = "x86_64", libc: str = "glibc", version: str = "2.36") -> Platform:
    return Platform(python="3.11", machine=machine, libc=(libc, version))


class TestWhatAServerTells:
    def test_all_there_is(self) -> None:
        found = read_platform("gpu-a", told())
        assert found == Platform(python="3.11.2", machine="x86_64", libc=("glibc", "2.36"))
        assert str(found) == "Python 3.11.2 on x86_64, glibc 2.36"
        assert pip_abis(found) == ("cp311", "abi3", "none")

    @pytest.mark.parametrize(
        ("changes", "seen"),
        [
            ({"machine": "ARM64"}, ("aarch64", ("glibc", "2.36"), "3.11.2")),
            ({"libc": "musl", "libc_version": ""}, ("x86_64", ("musl", "1.2"), "3.11.2")),
            ({"python_version": "3.14.0rc1+"}, ("x86_64", ("glibc", "2.36"), "3.14.0")),
            ({"python_version": "3.12"}, ("x86_64", ("glibc", "2.36"), "3.12")),
        ],
    )
    def test_other_spellings(self, changes: dict[str, object], seen: object) -> None:
        found = read_platform("gpu-a", told(**changes))
        assert (found.machine, found.libc, found.python) == seen

    @pytest.mark.parametrize(
        "changes",
        [
            {"machine": "vax"},
            {"machine": None},
            {"machine": "x86_64\n--index-url=http://x"},
            {"libc": "bionic"},
            {"libc_version": "3.0"},
            {"libc_version": "2"},
            {"libc_version": ["2", "36"]},
            {"python_version": "2.7.18"},
            {"python_version": "3.11; rm -rf ~"},
            {"python_version": 3.11},
        ],
    )
    def test_anything_else_is_an_error_in_its_name(self, changes: dict[str, object]) -> None:
        with pytest.raises(RemoteLaunchError, match=r"^gpu-a: packages can't be chosen") as caught:
            read_platform("gpu-a", told(**changes))
        assert "\n" not in caught.value.message
        assert caught.value.hint

    def test_not_even_an_object(self) -> None:
        with pytest.raises(RemoteLaunchError):
            read_platform("gpu-a", ["x86_64"])


class TestPipPlatforms:
    def test_newest_first_with_the_old_names_in_their_places(self) -> None:
        tags = pip_platforms(platform())
        assert tags[0] == "manylinux_2_36_x86_64"
        assert tags[-3:] == ("manylinux_2_5_x86_64", "manylinux1_x86_64", "linux_x86_64")
        assert tags.index("manylinux2014_x86_64") == tags.index("manylinux_2_17_x86_64") + 1
        assert tags.index("manylinux2010_x86_64") == tags.index("manylinux_2_12_x86_64") + 1

    def test_others_began_with_manylinux2014(self) -> None:
        tags = pip_platforms(platform("aarch64"))
        assert tags[-3:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64")

    def test_musl(self) -> None:
        found = [tag.removesuffix("_x86_64") for tag in pip_platforms(platform(libc="musl", version="1.2"))]
        assert found == ["musllinux_1_2", "musllinux_1_1", "musllinux_1_0", "linux"]

    def test_they_are_the_tags_that_pip_itself_would_take(self) -> None:
        """Checked against packaging's list for the machine that runs this, where it is a Linux with glibc."""
        tags = pytest.importorskip("packaging.tags")
        libc = pytest.importorskip("packaging._manylinux")._get_glibc_version()
        theirs = [tag for tag in tags.platform_tags() if "manylinux" in tag]
        machine = this_machine.machine()
        if libc[0] != 2 or machine not in ("x86_64", "aarch64") or not theirs:
            pytest.skip("no Linux with glibc")
        assert pip_platforms(platform(machine, version=f"2.{libc[1]}"))[:-1] == tuple(theirs)


@pytest.mark.parametrize(
    ("machine", "libc", "version", "name"),
    [
        ("x86_64", "glibc", "2.36", "x86_64-manylinux_2_36"),
        ("aarch64", "glibc", "2.30", "aarch64-manylinux_2_28"),
        ("x86_64", "glibc", "2.99", "x86_64-manylinux_2_40"),
        ("x86_64", "glibc", "2.12", None),
        ("x86_64", "musl", "1.2", "x86_64-unknown-linux-musl"),
        ("x86_64", "musl", "1.1", None),
        ("riscv64", "glibc", "2.36", "riscv64-unknown-linux"),
        ("ppc64le", "glibc", "2.36", None),
    ],
)
def test_uv_platform_is_the_nearest_that_is_not_newer(
    machine: str, libc: str, version: str, name: str | None
) -> None:
    assert uv_platform(platform(machine, libc, version)) == name
