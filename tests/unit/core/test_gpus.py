"""Which cards a node uses."""

from __future__ import annotations

from typing import Any

import pytest

from remote_launch.core.cards import Card, CardChoice, CardProcess, Survey
from remote_launch.core.gpus import GpuWish, choose_cards, read_wish
from remote_launch.errors import TopologyError, UsageError


def card(index: int, **values: Any) -> Card:
    vendor = values.pop("vendor", "nvidia")
    return Card(
        vendor=vendor, index=index, uuid=f"GPU-{vendor}{index}", name="A100", memory_total_mb=40960, **values
    )


def survey(*cards: Card, visible: dict[str, str] | None = None, problems: tuple[str, ...] = ()) -> Survey:
    return Survey(cards=cards, visible=visible or {}, problems=problems)


FOUR = survey(*map(card, range(4)))
HELD = survey(card(0, busy="alice (python, pid 9, 30000 MiB)"), *map(card, range(1, 4)))


def choose(
    told: Survey,
    ranks: str | int | None = "gpu",
    *,
    env: dict[str, str] | None = None,
    taken: tuple[str, ...] = (),
    **wish: Any,
) -> CardChoice:
    return choose_cards("a", told, GpuWish(**wish), ranks, user_env=env or {}, taken=taken)


def shown(choice: CardChoice) -> str | None:
    return choice.env.get("CUDA_VISIBLE_DEVICES")


class TestTheWish:
    def test_cards_for_all_and_for_one_server(self) -> None:
        wish = read_wish(["0,2", "b:1", "c:none"], None, ["a", "b", "c"])
        assert wish.named == {None: ("0", "2"), "b": ("1",), "c": ()}

    def test_uuids(self) -> None:
        assert read_wish(["GPU-12345678-1"], None, []).named == {None: ("GPU-12345678-1",)}

    @pytest.mark.parametrize("text", ["x", "", "0,", "0,0", "1-3", "-1", "0;id", "GPU-$(id)"])
    def test_what_names_no_card(self, text: str) -> None:
        with pytest.raises(UsageError, match="expected different cards") as caught:
            read_wish([text], None, [])
        assert "--gpus-per-node" in str(caught.value.hint)

    def test_a_server_that_takes_no_part(self) -> None:
        with pytest.raises(UsageError, match="did you mean 'gpu-a'"):
            read_wish(["gpu-b:0"], None, ["gpu-a"])

    def test_names_and_a_count_contradict_each_other(self) -> None:
        with pytest.raises(UsageError, match="one of the two"):
            read_wish(["0"], 2, [])
        assert read_wish(["a:0"], 2, ["a"]).per_node == 2

    def test_cards_named_twice(self) -> None:
        with pytest.raises(UsageError, match="twice"):
            read_wish(["0", "1"], None, [])


class TestCounts:
    def test_gpu_is_every_free_card(self) -> None:
        choice = choose(FOUR)
        assert (choice.count, shown(choice)) == (4, "0,1,2,3")
        assert choice.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert choice.reason == "a: cards 0, 1, 2, 3 (A100)"

    def test_a_card_of_someone_else_is_left_out_and_said(self) -> None:
        choice = choose(HELD)
        assert (choice.count, shown(choice)) == (3, "1,2,3")
        assert choice.reason == (
            "a: cards 1, 2, 3 of 4 (A100); card 0 is held by alice (python, pid 9, 30000 MiB)"
        )
        assert choose(HELD, take_busy=True).count == 4

    def test_a_count_takes_idle_cards_first(self) -> None:
        own = CardProcess(pid=7, user="me", is_own=True, memory_mb=9000, command="python")
        told = survey(card(0, processes=(own,)), card(1), card(2))
        assert shown(choose(told, per_node=2)) == "1,2"
        last = choose(told, per_node=3)
        assert shown(last) == "0,1,2"
        assert last.warnings == ("a: your own python (pid 7, 9000 MiB) is on card 0, too",)

    def test_busy_cards_come_last_where_they_may_be_taken(self) -> None:
        assert shown(choose(HELD, per_node=2, take_busy=True)) == "1,2"
        assert shown(choose(HELD, per_node=4, take_busy=True)) == "0,1,2,3"

    def test_too_few_names_who_holds_the_others(self) -> None:
        said = "a: --gpus-per-node 4, but 3 of its 4 cards are free"
        with pytest.raises(TopologyError, match=said) as caught:
            choose(HELD, per_node=4)
        assert "card 0 is held by alice (python, pid 9, 30000 MiB)" in str(caught.value)
        assert "--busy-gpus" in str(caught.value.hint)

    def test_more_than_there_are(self) -> None:
        with pytest.raises(TopologyError, match="a: --gpus-per-node 9, but it has 4 cards") as caught:
            choose(HELD, per_node=9)
        assert "--busy-gpus" not in str(caught.value.hint)

    def test_none_is_free(self) -> None:
        with pytest.raises(TopologyError, match="0 of its 1 cards are free: card 0 is held by bob"):
            choose(survey(card(0, busy="bob")))

    def test_a_broken_card_is_never_taken(self) -> None:
        told = survey(card(0, trouble="must be reset"), card(1))
        assert shown(choose(told, take_busy=True)) == "1"
        with pytest.raises(TopologyError, match="card 0 must be reset"):
            choose(told, per_node=2, take_busy=True)

    def test_no_card_at_all(self) -> None:
        assert choose(survey()).count == 0  # resolve_nproc says the rest
        assert choose(survey(), "auto").count == 0
        with pytest.raises(TopologyError, match="no GPU was found there"):
            choose(survey(), per_node=1)
        with pytest.raises(TopologyError, match="the driver was updated"):
            choose(survey(problems=("the driver was updated",)))

    def test_a_number_of_ranks_leaves_the_choice_to_the_script(self) -> None:
        assert choose(FOUR, 2).env == {}
        assert choose(survey(), 2).env == {}

    def test_a_number_of_ranks_is_kept_from_what_others_hold(self) -> None:
        assert shown(choose(HELD, 2)) == "1,2,3"
        with pytest.raises(TopologyError, match="4 ranks, but 3 of its 4 cards are free") as caught:
            choose(HELD, 4)
        assert "--gpus none" in str(caught.value.hint)
        assert choose(HELD, 8).env == {}  # not one a rank

    def test_more_ranks_than_cards_are_told_of(self) -> None:
        for choice in (choose(FOUR, 8), choose(HELD, 8), choose(FOUR, 3, named={None: ("0", "2")}),
                       choose(FOUR, "3", per_node=2)):
            [text] = choice.warnings
            assert "ranks share" in text
            assert "--gpus none" in text
        assert choose(FOUR, 4).warnings == choose(survey(), 4).warnings == ()
        assert choose(FOUR, 8, named={None: ()}).warnings == ()
        assert choose(FOUR, "cpu").warnings == ()

    def test_ranks_on_processors_get_no_card_chosen(self) -> None:
        assert choose(HELD, "cpu").env == {}
        assert choose(HELD, None).env == {}

    def test_split_cards_are_named_by_device(self) -> None:
        told = survey(card(0, is_split=True, devices=(("1g.10gb", "MIG-1234-a"),)))
        with pytest.raises(TopologyError, match="split into MIG devices") as caught:
            choose(told)
        assert "--gpus MIG-" in str(caught.value.hint)
        named = choose(told, named={None: ("MIG-1234-a",)})
        assert (named.count, shown(named)) == (1, "MIG-1234-a")

    def test_two_nodes_on_one_machine_share_no_card(self) -> None:
        assert shown(choose(FOUR, per_node=2, taken=("GPU-nvidia0", "GPU-nvidia1"))) == "2,3"
        with pytest.raises(TopologyError, match="held by another node of this launch"):
            choose(FOUR, take_busy=True, taken=tuple(one.uuid for one in FOUR.cards))


class TestNames:
    def test_by_index(self) -> None:
        choice = choose(FOUR, named={None: ("2", "0")})
        assert (choice.count, shown(choice)) == (2, "2,0")

    def test_by_uuid(self) -> None:
        assert shown(choose(FOUR, named={None: ("GPU-nvidia3",)})) == "GPU-nvidia3"

    def test_the_servers_own_names_come_before_those_for_all(self) -> None:
        assert shown(choose(FOUR, named={None: ("0",), "a": ("1", "2")})) == "1,2"
        assert shown(choose(FOUR, named={"b": ("1", "2")})) == "0,1,2,3"

    def test_a_named_card_is_used_though_held_and_that_is_said(self) -> None:
        choice = choose(HELD, named={None: ("0",)})
        assert shown(choice) == "0"
        assert "held by alice" in choice.warnings[0]

    def test_a_card_that_is_not_there(self) -> None:
        with pytest.raises(TopologyError, match="there is no card 4; it has cards 0, 1, 2, 3"):
            choose(FOUR, named={None: ("4",)})

    def test_a_card_named_twice_in_different_words(self) -> None:
        with pytest.raises(TopologyError, match="a: 2 and GPU-nvidia2 are the same card"):
            choose(FOUR, named={None: ("2", "GPU-nvidia2")})
        told = survey(card(0, is_split=True, devices=(("1g", "MIG-1234-a"), ("1g", "MIG-1234-b"))))
        assert shown(choose(told, named={None: ("MIG-1234-a", "MIG-1234-b")})) == "MIG-1234-a,MIG-1234-b"

    def test_the_beginning_of_several_uuids(self) -> None:
        with pytest.raises(TopologyError, match="GPU-nvidia may be card 0, 1, 2 or 3"):
            choose(FOUR, named={None: ("GPU-nvidia",)})

    def test_none(self) -> None:
        choice = choose(FOUR, 4, named={None: ()})
        assert (choice.count, shown(choice)) == (0, "")


class TestWhatIsSetAlready:
    def test_the_users_variable_wins(self) -> None:
        choice = choose(HELD, env={"CUDA_VISIBLE_DEVICES": "0,1"}, per_node=1)
        assert (choice.count, dict(choice.env)) == (2, {})
        assert "does not count" in choice.warnings[0]
        assert choice.reason == "a: CUDA_VISIBLE_DEVICES=0,1, as you set it"

    def test_a_variable_that_shows_what_is_not_there(self) -> None:
        [text] = choose(FOUR, env={"CUDA_VISIBLE_DEVICES": "0,7"}).warnings
        assert text == "a: CUDA_VISIBLE_DEVICES=0,7: there is no card 7; it has cards 0, 1, 2, 3"
        assert choose(survey(), 1, env={"CUDA_VISIBLE_DEVICES": "0,7"}).warnings == ()
        with pytest.raises(TopologyError, match="CUDA_VISIBLE_DEVICES= shows no card"):
            choose(FOUR, env={"CUDA_VISIBLE_DEVICES": ""})
        assert choose(FOUR, "auto", env={"CUDA_VISIBLE_DEVICES": ""}).count == 0

    def test_the_login_environment_narrows_the_choice(self) -> None:
        told = survey(*map(card, range(4)), visible={"CUDA_VISIBLE_DEVICES": "3,1"})
        choice = choose(told)
        assert shown(choice) == "3,1"
        assert "CUDA_VISIBLE_DEVICES=3,1 of its login environment" in choice.reason
        assert shown(choose(told, named={None: ("0",)})) == "0"  # a name says more

    @pytest.mark.parametrize(("value", "count"), [("MIG-x", 1), ("9", 1), ("", 0), ("-1", 0), ("1,-1,2", 1)])
    def test_a_login_environment_that_shows_others_or_none(self, value: str, count: int) -> None:
        told = survey(*map(card, range(4)), visible={"CUDA_VISIBLE_DEVICES": value})
        assert choose(told).count == count

    def test_an_order_of_the_users_own_is_met_by_uuids(self) -> None:
        choice = choose(HELD, env={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, per_node=1)
        assert dict(choice.env) == {"CUDA_VISIBLE_DEVICES": "GPU-nvidia1"}


class TestAmd:
    def test_its_own_variable(self) -> None:
        told = survey(*(card(index, vendor="amd") for index in range(2)))
        assert dict(choose(told, named={None: ("1",)}).env) == {"HIP_VISIBLE_DEVICES": "1"}

    def test_it_counts_among_what_rocr_shows(self) -> None:
        cards = (card(index, vendor="amd") for index in range(4))
        told = survey(*cards, visible={"ROCR_VISIBLE_DEVICES": "2,3"})
        assert dict(choose(told).env) == {"HIP_VISIBLE_DEVICES": "0,1"}

    def test_of_two_vendors_the_one_with_more_memory(self) -> None:
        told = survey(card(0, vendor="amd"), card(0), card(1))
        assert shown(choose(told)) == "0,1"
