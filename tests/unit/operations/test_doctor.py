"""What rl doctor makes of a server's facts: how bad, in which words, and what to do."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.findings import worst
from remote_launch.core.inventory import Server
from remote_launch.errors import ConnectTimeoutError, UsageError
from remote_launch.operations.checks import CHECKS, Examined, chosen_checks
from remote_launch.operations.doctor import Diagnosis
from remote_launch.operations.equal_checks import judge_equal
from remote_launch.operations.machine_checks import judge_machine
from remote_launch.operations.room_checks import judge_room
from remote_launch.operations.software_checks import judge_software

if TYPE_CHECKING:
    from remote_launch.core.findings import Finding

GB, MIB = 1_000_000_000, 1 << 20
NOW = 1_800_000_000.0
ROOM = MappingProxyType(
    {"total_bytes": 500 * GB, "free_bytes": 90 * GB, "inodes": 10**7, "inodes_free": 10**6}
)
HEALTHY: dict[str, Any] = {
    "system": {"os": "Debian 12", "kernel": "6.1.0-18-amd64", "arch": "x86_64", "cpus": 8, "infiniband": []},
    "workdir": {"path": "/w", "exists": True, "writable": True, "readonly": False},
    "disk": {"path": "/w", **ROOM},
    "temporary": {"path": "/tmp", **ROOM},
    "shm": {"path": "/dev/shm", "total_bytes": 8 << 30, "free_bytes": 8 << 30},
    "memory": {"total_bytes": 32 << 30, "available_bytes": 30 << 30, "limit_bytes": None},
    "limits": {
        "nofile": 1024, "nofile_hard": 1048576, "nproc": 60000, "memlock": 65536, "core": 0,
        "threads": 100, "threads_limit": 60000, "cores_are_piped": False,
    },
    "logind": {},
    "name": {"hostname": "gpu-a", "addresses": ["10.0.0.5"], "took_s": 0.001},
    "proxies": [],
    "rsync": "3.2.7",
    "gpus": {"cards": [], "problems": [], "visible": {}},
    "driver": {"version": None, "cuda": None},
    "jobs": {"running": 0, "left_over": []},
    "environment": {"interpreter": "/e/bin/python", "versions": {"python": "3.11.2"}, "home": "h"},
    "torch": {"torch": "2.13.0+cu126", "cuda": "12.6", "hip": None, "nccl": "2.27.3"},
    "late": [],
    "began": NOW + 0.1,
    "time": NOW + 0.2,
}  # fmt: skip
CARD: dict[str, Any] = {
    "vendor": "nvidia", "index": 0, "name": "H200", "trouble": None, "busy": None, "ecc_errors": 0,
    "temperature_c": 40,
}  # fmt: skip


def examined(server: str = "a", *, noise: str = "", nproc: int | None = None, **facts: Any) -> Examined:
    """A healthy server, but for the facts given; a mapping adds to the healthy one's."""
    merged = {
        key: {**value, **facts[key]} if isinstance(value, dict) and isinstance(facts.get(key), dict)
        else facts.get(key, value)
        for key, value in {**HEALTHY, **{key: None for key in facts if key not in HEALTHY}}.items()
    }  # fmt: skip
    return Examined(
        server=Server(name=server, workdir="/w", nproc_per_node=nproc), facts=merged, connect_s=0.2,
        trip_s=0.01, noise=noise, asked_at=NOW, answered_at=NOW + 0.3, environment="up_to_date",
    )  # fmt: skip


def judge(found: Examined) -> list[Finding]:
    return [*judge_machine(found), *judge_room(found), *judge_software(found)]


def bad(found: Examined) -> list[tuple[str, str]]:
    """The checks and levels of what isn't as it should be."""
    return [(one.check, one.level) for one in judge(found) if one.level != "ok"]


def test_nothing_is_wrong_with_a_healthy_server() -> None:
    findings = judge(examined())
    assert worst(findings) == "ok"
    # import needs --deep; a proxy and a driver are told of where there is one.
    alone = [check.id for check in CHECKS if check.group in ("Connection", "Machine", "Software")]
    assert {one.check for one in findings} == {*alone} - {"import", "proxy", "driver"}


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"noise": "Welcome!\n"}, "login-shell", "error"),
    ({"began": NOW - 3600, "time": NOW - 3599}, "clock", "warning"),
    ({"began": NOW + 90_000, "time": NOW + 90_001}, "clock", "error"),
    ({"system": {"kernel": "4.18.0-553.el8"}}, "system", "note"),
    ({"disk": {"free_bytes": 0}}, "disk", "error"),
    ({"disk": {"free_bytes": 2 * GB}}, "disk", "warning"),
    ({"disk": {"inodes_free": 3}}, "disk", "error"),
    ({"temporary": {"free_bytes": 0, "total_bytes": GB}}, "disk", "error"),
    ({"memory": {"available_bytes": 300 * MIB}}, "memory", "warning"),
    ({"shm": {"total_bytes": 64 * MIB, "free_bytes": 64 * MIB}}, "shm", "warning"),
    ({"shm": {"total_bytes": 64 * MIB, "free_bytes": 4 * MIB}}, "shm", "error"),
    ({"shm": None}, "shm", "error"),
    ({"limits": {"nofile": 512}}, "limits", "warning"),
    ({"limits": {"nofile": 200}}, "limits", "error"),
    ({"limits": {"threads_limit": 120}}, "limits", "error"),
    ({"limits": {"core": None}}, "limits", "note"),
    ({"system": {"infiniband": ["mlx5_0"]}}, "limits", "warning"),
    ({"logind": {"kill_user_processes": True, "scopes": True, "linger": False}}, "logout", "error"),
    ({"name": {"addresses": ["127.0.1.1"]}}, "hostname", "note"),
    ({"name": {"addresses": []}}, "hostname", "note"),
    ({"name": {"took_s": 5.0}}, "hostname", "warning"),
    ({"proxies": ["http_proxy"]}, "proxy", "note"),
    ({"jobs": {"left_over": [{"job_id": "a" * 32, "processes": 2}]}}, "leftovers", "warning"),
    ({"late": ["gpus"]}, "system", "warning"),
    ({"workdir": {"writable": False}}, "workdir", "error"),
    ({"rsync": None}, "rsync", "error"),
    ({"rsync": "2.6.9"}, "rsync", "warning"),
    ({"torch": {"torch": None}}, "torch", "warning"),
    ({"torch": {"cuda": None}, "gpus": {"cards": [CARD]}}, "torch", "warning"),
    ({"torch": {"hip": "6.2", "cuda": None}, "gpus": {"cards": [CARD]}}, "torch", "error"),
    ({"driver": {"version": "470.1", "cuda": "11.4"}}, "driver", "error"),
    ({"driver": {"version": "525.1", "cuda": "12.0"}}, "driver", "note"),
    ({"gpus": {"problems": ["the driver is not loaded: reboot"]}}, "gpus", "error"),
    ({"gpus": {"cards": [{**CARD, "trouble": "fell off the bus (reboot the server)"}]}}, "gpus", "error"),
    ({"gpus": {"cards": [{**CARD, "ecc_errors": 3}]}}, "gpus", "warning"),
    ({"gpus": {"cards": [{**CARD, "temperature_c": 95}]}}, "gpus", "warning"),
    ({"gpus": {"cards": [{**CARD, "busy": "alice (python)"}]}}, "gpus", "warning"),
    ({"gpus": {"cards": [CARD]}, "nproc": 4}, "gpus", "warning"),
    ({"import": {"error": "ImportError: libcudnn.so.9"}}, "import", "error"),
    ({"import": None}, "import", "error"),
    ({"import": {"gloo": True, "why": "no driver"}, "gpus": {"cards": [CARD]}}, "import", "error"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "check", "level"), FAULTS, ids=lambda value: str(value)[:50])
def test_each_fault_is_found_and_no_other(facts: dict[str, Any], check: str, level: str) -> None:
    found = examined(**facts)
    assert bad(found) == [(check, level)]
    (finding,) = (one for one in judge(found) if one.level == level)
    assert finding.do or check in ("proxy", "system"), "it says what to do"


def test_what_a_server_makes_up_breaks_nothing() -> None:
    rubbish: list[Any] = [None, 7, "x", [], {}, [None], {"x": 1}, {"cards": [{}, 3]}, -1e300, True]
    for value in rubbish:
        facts = dict.fromkeys(HEALTHY, value)
        found = Examined(
            server=Server(name="a", workdir="/w"), facts=facts, connect_s=0, trip_s=0, noise="",
            asked_at=NOW, answered_at=NOW, environment="?",
        )  # fmt: skip
        for finding in [*judge(found), *judge_equal([found, found])]:
            assert isinstance(finding.to_dict()["message"], str)


def test_a_clock_is_right_as_far_as_a_slow_answer_can_tell() -> None:
    slow = examined(began=NOW + 0.1, time=NOW + 0.2)
    slow = Examined(**{**{key: getattr(slow, key) for key in slow.__slots__}, "answered_at": NOW + 20})
    assert bad(slow) == []


class TestSeveral:
    def test_equal_servers_are_told_to_be(self) -> None:
        (one,) = judge_equal([examined("a"), examined("b", environment={"home": "other"})])
        assert (one.level, one.servers) == ("ok", ("a", "b"))

    def test_one_server_alone_is_like_nobody(self) -> None:
        assert list(judge_equal([examined("a")])) == []

    @pytest.mark.parametrize(
        ("facts", "level", "words"),
        [
            ({"torch": {"torch": "2.12.1"}}, "error", "torch differs: 2.13.0 on a, c; 2.12.1 on b"),
            ({"torch": {"cuda": "12.8"}}, "error", "torch's CUDA differs"),
            ({"torch": {"nccl": "2.21.5"}}, "error", "NCCL differs: 2.27.3 on a, c; 2.21.5 on b"),
            ({"environment": {"home": "2", "versions": {"python": "3.12.1"}}}, "warning", "Python differs"),
            ({"system": {"arch": "aarch64"}}, "warning", "architecture differs"),
            ({"gpus": {"cards": [CARD]}}, "note", "no cards on a, c; 1× H200 on b"),
        ],
    )
    def test_what_differs_is_named_with_who_has_what(
        self, facts: dict[str, Any], level: str, words: str
    ) -> None:
        def home(name: str) -> dict[str, Any]:
            return {"environment": {"home": name}}

        b = {**home("2"), **facts}
        found = judge_equal([examined("a"), examined("b", **b), examined("c", **home("3"))])
        (difference,) = (one for one in found if one.level == level)
        assert words in difference.message
        assert difference.do

    def test_a_shared_home_is_noted(self) -> None:
        found = [one for one in judge_equal([examined("a"), examined("b")]) if one.level == "note"]
        assert [one.servers for one in found] == [("a", "b")]


class TestDiagnosis:
    def test_exit_codes(self) -> None:
        lost = {"b": ConnectTimeoutError("b", "no answer")}

        def code(findings: list[Finding], unreachable: Any) -> int:
            return Diagnosis(
                servers=("a", "b"), findings=tuple(findings), unreachable=unreachable, duration_s=1
            ).exit_code

        found = examined()
        assert code([found.finding("disk", "warning", "x")], {}) == 0
        assert code([found.finding("disk", "error", "x")], {}) == 1
        assert code([found.finding("disk", "ok", "x")], lost) == 3
        assert code([], {**lost, "a": lost["b"]}) == 1

    def test_an_unknown_check_says_which_was_meant(self) -> None:
        with pytest.raises(UsageError, match="did you mean 'torch'"):
            chosen_checks(["torhc"])
        assert chosen_checks([]) == {check.id for check in CHECKS}
