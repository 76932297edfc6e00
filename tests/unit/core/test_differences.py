from __future__ import annotations

from remote_launch.core.environments.differences import find_differences


def has(python: str | None, torch: str | None = None, cuda: str | None = None) -> dict[str, str | None]:
    return {"python": python, "torch": torch, "cuda": cuda}


def texts(**versions: dict[str, str | None]) -> list[str]:
    return [difference.text for difference in find_differences(versions)]


def test_alike_is_no_difference_and_neither_is_pythons_last_number() -> None:
    assert texts() == []
    assert texts(a=has("3.11.2", "2.13.0+cpu")) == []
    assert texts(a=has("3.11.2", "2.13.0+cpu"), b=has("3.11.9", "2.13.0+cpu")) == []
    assert texts(a=has("3.11.2"), b=has("3.11.2")) == []


def test_what_most_have_comes_first() -> None:
    versions = {"a": has("3.12.1"), "b": has("3.11.2"), "c": has("3.11.9")}
    assert texts(**versions) == ["Python differs: 3.11 on b, c; 3.12 on a"]


def test_torch_and_its_build_are_two_differences() -> None:
    old, new = has("3.11.2", "2.4.1+cu121", "12.1"), has("3.11.2", "2.13.0+cu126", "12.6")
    assert texts(a=old, b=new) == [
        "torch differs: 2.4.1 on a; 2.13.0 on b",
        "torch's CUDA differs: 12.1 on a; 12.6 on b",
    ]
    cpu = has("3.11.2", "2.13.0+cpu")
    assert texts(a=new, b=cpu) == ["torch's CUDA differs: 12.6 on a; a build without CUDA on b"]


def test_a_server_without_torch_stands_out() -> None:
    found = texts(a=has("3.11.2", "2.13.0+cpu"), b=has("3.11.2"))
    assert found == ["torch differs: 2.13.0 on a; none on b"]


def test_a_server_whose_python_is_not_known_says_nothing() -> None:
    assert texts(a=has("3.11.2", "2.13.0+cpu"), b=has(None)) == []
