"""The ranks of a launch: who is which node, how many each runs, where they meet."""

from __future__ import annotations

import pytest

from remote_launch.core.topology import NodeFacts, lay_out, order_servers, resolve_nproc
from remote_launch.errors import TopologyError


def facts(server: str, *, cpus: int = 8, gpus: int = 0, ports: tuple[int, ...] = (20001, 20002)) -> NodeFacts:
    return NodeFacts(
        server=server,
        address=f"10.0.0.{ord(server[-1])}",
        interface="eth0",
        cpus=cpus,
        gpus=gpus,
        ports=ports,
    )


class TestOrder:
    def test_inventory_order_without_a_master(self) -> None:
        assert order_servers(["c", "a", "b"], None) == ["c", "a", "b"]

    def test_the_master_comes_first_and_the_others_keep_their_order(self) -> None:
        assert order_servers(["c", "a", "b"], "a") == ["a", "c", "b"]

    def test_a_master_outside_the_launch_is_a_usage_error_that_names_the_servers(self) -> None:
        with pytest.raises(TopologyError, match=r"--master d .*\(c, a\)") as caught:
            order_servers(["c", "a"], "d")
        assert caught.value.exit_code == 2


class TestNproc:
    @pytest.mark.parametrize(
        ("wanted", "gpus", "count"),
        [(3, 0, 3), ("3", 0, 3), (" GPU ", 4, 4), ("cpu", 4, 8), ("auto", 4, 4), ("auto", 0, 8), ("1", 0, 1)],
    )
    def test_counts(self, wanted: str | int, gpus: int, count: int) -> None:
        assert resolve_nproc(wanted, facts("a", gpus=gpus)) == count

    @pytest.mark.parametrize("wanted", ["0", "-1", "", "two", "1.5", "²", 0])
    def test_anything_else_is_a_usage_error(self, wanted: str | int) -> None:
        with pytest.raises(TopologyError, match="expected a number from 1, gpu, cpu or auto") as caught:
            resolve_nproc(wanted, facts("a"))
        assert caught.value.exit_code == 2

    def test_gpu_without_gpus_names_the_server_and_what_to_do(self) -> None:
        with pytest.raises(TopologyError, match=r"box-a: .*no GPU was found") as caught:
            resolve_nproc("gpu", facts("box-a"))
        assert caught.value.hint
        assert "cpu" in caught.value.hint


class TestLayOut:
    def test_ranks_follow_one_another_over_unequal_nodes(self) -> None:
        topology = lay_out([facts("a", gpus=4), facts("b", gpus=2), facts("c")], ["gpu", "gpu", 1])
        assert [(n.server, n.node_rank, n.first_rank, n.nproc) for n in topology.nodes] == [
            ("a", 0, 0, 4),
            ("b", 1, 4, 2),
            ("c", 2, 6, 1),
        ]
        assert (topology.nnodes, topology.world_size) == (3, 7)

    def test_they_meet_at_the_first_node_on_two_ports_of_its_own(self) -> None:
        topology = lay_out([facts("b", ports=(21000, 21001)), facts("a", ports=(1, 2))], [1, 1])
        assert (topology.master_addr, topology.master_port, topology.gang_port) == ("10.0.0.98", 21000, 21001)

    @pytest.mark.parametrize(
        ("address", "place"),
        [("10.0.0.5", "10.0.0.5:29500"), ("fd00::5", "[fd00::5]:29500"), ("gpu-a", "gpu-a:29500")],
    )
    def test_the_place_as_people_read_it(self, address: str, place: str) -> None:
        topology = lay_out([facts("a")], [1], master_addr=address, master_port=29500)
        assert topology.meeting_place == place

    def test_what_the_user_set_wins(self) -> None:
        topology = lay_out([facts("a"), facts("b")], [1, 1], master_addr="192.168.9.9", master_port=29500)
        assert (topology.master_addr, topology.master_port) == ("192.168.9.9", 29500)

    @pytest.mark.parametrize("port", [20001, 20002])
    def test_the_supervisors_never_get_the_masters_port(self, port: int) -> None:
        topology = lay_out([facts("a")], [1], master_port=port)
        assert topology.master_port == port
        assert topology.gang_port in {20001, 20002} - {port}

    def test_no_servers_and_no_ports_are_errors(self) -> None:
        with pytest.raises(TopologyError, match="at least one server"):
            lay_out([], [])
        with pytest.raises(TopologyError, match="a: no free port"):
            lay_out([facts("a", ports=(20001,))], [1])
