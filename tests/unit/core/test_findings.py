"""Findings: those that say the same are one line; the worst come first."""

from __future__ import annotations

from remote_launch.core.findings import Finding, Level, fold, worst, worst_first


def found(server: str, level: Level = "ok", message: str = "enough space", detail: str = "") -> Finding:
    return Finding(check="disk", servers=(server,), level=level, message=message, detail=detail)


def test_equal_findings_of_several_servers_are_one() -> None:
    (one,) = fold([found("a", detail="3 GB"), found("b", detail="3 GB")])
    assert (one.servers, one.detail) == (("a", "b"), "3 GB")


def test_what_differs_is_named_by_server_and_not_for_all_of_many() -> None:
    (one,) = fold([found("a", detail="3 GB"), found("b", detail="4 GB"), found("c", detail="3 GB")])
    assert one.detail == "3 GB (a, c), 4 GB (b)"
    (one,) = fold([found(f"s{number}", detail=f"{number} GB") for number in range(6)])
    assert one.detail == "0 GB (s0), 1 GB (s1), 2 GB (s2), 3 GB (s3) and 2 more"


def test_another_level_or_message_stays_apart() -> None:
    told = [found("a"), found("b", "error", "no space left"), found("c", "warning", "little space")]
    assert [item.servers for item in fold(told)] == [("a",), ("b",), ("c",)]
    assert [item.servers for item in worst_first(told)] == [("b",), ("c",)]
    assert worst(told) == "error"
    assert worst([]) == "ok"


def test_the_data_of_each_server_is_kept() -> None:
    items = [
        Finding(check="disk", servers=(name,), level="ok", message="enough", data={"free_bytes": size})
        for name, size in (("a", 1), ("b", 2))
    ]
    (one,) = fold(items)
    assert one.to_dict()["data"] == {"a": {"free_bytes": 1}, "b": {"free_bytes": 2}}
