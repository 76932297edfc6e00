"""What doctor does not try between servers, and that it says so."""

from __future__ import annotations

from typing import Any

import pytest

from remote_launch.operations.network_checks import _backends, why_no_allreduce
from tests.unit.operations.test_doctor import CARD, examined

NO_TORCH: dict[str, Any] = {"torch": None, "environment": {"versions": {"python": "3.11"}}}


@pytest.mark.parametrize(("facts", "is_open", "is_alike", "expected"), [
    ({}, True, True, None),
    ({}, False, True, "not all ways between the servers are open"),
    ({}, True, False, "what must be equal differs"),
    (NO_TORCH, False, False, "there is no torch"),
])
def test_an_all_reduce_that_is_left_out_says_why(
    facts: dict[str, Any], is_open: bool, is_alike: bool, expected: str | None
) -> None:
    told = why_no_allreduce([examined("a"), examined("b", **facts)], is_open=is_open, is_alike=is_alike)
    if expected is None:
        assert told == []
        return
    [note] = told
    assert (note.check, note.level, note.message) == ("allreduce", "note", f"was not tried: {expected}")
    assert note.servers == (("b",) if facts else ("a", "b"))


@pytest.mark.parametrize(("facts", "expected"), [
    ({"gpus": {"cards": [CARD]}}, ["gloo", "nccl"]),
    ({}, ["gloo"]),
    ({"gpus": {"cards": [CARD]}, "torch": {"torch": "2.13.0+cpu", "cuda": None}}, ["gloo"]),
    ({"gpus": {"cards": [CARD]}, "torch": {"torch": "2.13.0+rocm6", "cuda": None, "hip": "6.2"}},
     ["gloo", "nccl"]),
    ({"gpus": {"cards": [CARD]}, "torch": None}, ["gloo", "nccl"]),  # its files did not say
])
def test_nccl_is_tried_where_all_have_cards_that_torch_may_use(
    facts: dict[str, Any], expected: list[str]
) -> None:
    assert _backends([examined("a", gpus={"cards": [CARD]}), examined("b", **facts)]) == expected
