"""torchrun's arguments and a node's environment."""

from __future__ import annotations

import string

import pytest

from remote_launch.core.topology import NodeFacts, Topology, lay_out
from remote_launch.core.torchrun import UNSET, Script, default_tags, node_env, parse_cmd, torchrun_args
from remote_launch.errors import UsageError


def topology(*, nodes: int = 2, nproc: int = 2, interface: str | None = "eth0") -> Topology:
    facts = [
        NodeFacts(
            server=f"s{n}", address=f"10.0.0.{n}", interface=interface, cpus=4, gpus=0, ports=(20001, 20002)
        )
        for n in range(nodes)
    ]
    return lay_out(facts, [nproc] * nodes)


def args_of(script: Script, *, node: int = 1) -> list[str]:
    made = topology()
    return torchrun_args(made, made.nodes[node], script, "run-1")


def split(args: list[str]) -> tuple[dict[str, str], list[str]]:
    """torchrun's own options by name, and the script's words."""
    options: dict[str, str] = {}
    while args and args[0].startswith("--") and args[0] != "--module":
        options[args[0]] = args[1]
        args = args[2:]
    return options, args


class TestArguments:
    def test_every_option_that_the_environment_could_change_is_given(self) -> None:
        options, words = split(args_of(Script(name="train.py", args=("--epochs", "3"))))
        assert options == {
            "--nnodes": "2",
            "--nproc-per-node": "2",
            "--node-rank": "1",
            "--rdzv-backend": "static",
            "--rdzv-id": "run-1",
            "--master-addr": "10.0.0.0",
            "--master-port": "20001",
            "--max-restarts": "0",
            "--monitor-interval": "0.1",
            "--start-method": "spawn",
            "--role": "default",
            "--tee": "0",
        }
        assert words == ["train.py", "--epochs", "3"]

    def test_what_a_login_environment_could_leave_is_unset(self) -> None:
        assert {"PET_*", "TORCHELASTIC_*", "RANK", "LOCAL_RANK"} <= set(UNSET)

    def test_the_scripts_words_come_through_torchruns_templates_as_typed(self) -> None:
        typed = ("--price", "$5", "${HOME}", "a$$b", "${local_rank}", "per%cent", "", "with space")
        _, words = split(args_of(Script(name="cost$.py", args=typed)))
        # torchrun does this to every word of the script.
        arrived = [string.Template(word).safe_substitute(local_rank="7") for word in words]
        assert arrived == ["cost$.py", *typed]

    def test_module(self) -> None:
        _, words = split(args_of(Script(name="package.train", args=("lr=0.1",), module=True)))
        assert words == ["--module", "package.train", "lr=0.1"]

    def test_labml_remotes_local_rank_is_filled_in_by_torchrun(self) -> None:
        _, words = split(args_of(Script(name="train.py", args=("a",), pass_local_rank=True)))
        assert words == ["train.py", "a", "--local_rank=${local_rank}"]
        assert string.Template(words[-1]).safe_substitute(local_rank="3") == "--local_rank=3"


class TestEnvironment:
    def env(self, user: dict[str, str] | None = None, **shape: object) -> dict[str, str]:
        made = topology(**shape)  # type: ignore[arg-type]
        return node_env(made, made.nodes[-1], user or {}, "run-1")

    def test_what_scripts_read_before_torchrun_sets_it(self) -> None:
        assert self.env() == {
            "MASTER_ADDR": "10.0.0.0",
            "MASTER_PORT": "20001",
            "NODE_RANK": "1",
            "NNODES": "2",
            "WORLD_SIZE": "4",
            "RUN_UUID": "run-1",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
            "NCCL_SOCKET_IFNAME": "=eth0",
        }

    def test_what_the_user_set_is_never_overridden(self) -> None:
        user = dict.fromkeys(self.env(), "mine")
        assert self.env(user) == user

    def test_a_single_rank_may_use_all_cores(self) -> None:
        assert "OMP_NUM_THREADS" not in self.env(nproc=1)

    def test_no_interface_on_one_node_and_none_for_nccl_on_loopback(self) -> None:
        assert not [name for name in self.env(nodes=1) if name.endswith("_IFNAME")]
        assert not [name for name in self.env(interface=None) if name.endswith("_IFNAME")]
        env = self.env(interface="lo")
        assert env["GLOO_SOCKET_IFNAME"] == "lo"
        assert "NCCL_SOCKET_IFNAME" not in env


class TestWords:
    @pytest.mark.parametrize(
        ("cmd", "words"),
        [
            ("train.py --epochs 3", ["train.py", "--epochs", "3"]),
            ("python train.py", ["train.py"]),
            ("python3 -m package.train", ["-m", "package.train"]),
            ("train.py --name 'two words'", ["train.py", "--name", "two words"]),
        ],
    )
    def test_parse_cmd(self, cmd: str, words: list[str]) -> None:
        assert parse_cmd(cmd) == words

    @pytest.mark.parametrize("cmd", ["", "  ", "python", "train.py 'open"])
    def test_parse_cmd_refuses(self, cmd: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse_cmd(cmd)
        assert caught.value.hint

    def test_default_tags_are_labml_remotes(self) -> None:
        script = Script(name="train.py", args=("--epochs", "3", "--epochs"))
        assert default_tags(script) == ["train.py", "--epochs", "3", "distributed", "torch"]
        assert default_tags(Script(name="pkg.train", module=True)) == [
            "-m",
            "pkg.train",
            "distributed",
            "torch",
        ]

    def test_display_is_what_a_person_would_type(self) -> None:
        assert Script(name="train.py", args=("a b",), module=True).display == "-m train.py 'a b'"
