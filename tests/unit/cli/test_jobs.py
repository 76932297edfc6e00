"""Which rows rl job-list shows."""

from __future__ import annotations

from remote_launch.cli.job_table import exit_text
from remote_launch.cli.jobs import _newest
from tests.support.records import new_record


def test_the_newest_come_with_all_nodes_of_their_launches() -> None:
    launches = [None, "m", "l", "l", "m", None]
    jobs = [
        new_record(key=key, server="s", command="c", launch_id=launch)
        for key, launch in enumerate(launches, 1)
    ]
    assert [[job.key for job in _newest(jobs, count)[0]] for count in (1, 2, 3, 9)] == [
        [6], [2, 5, 6], [2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6],
    ]  # fmt: skip
    assert [_newest(jobs, count)[1] for count in (1, 2, 3, 9)] == [5, 3, 1, 0]


def test_a_kill_for_memory_is_seen_in_the_list() -> None:
    def shown(reason: str) -> str:
        return exit_text(new_record(server="s", command="c", signal="KILL", reason=reason))

    assert shown("rank 3 was killed by the kernel: out of memory (limit 2 GiB)") == "OOM"
    assert shown("was killed by the kernel: out of memory") == "OOM"
    assert shown("stopped: rank 3 on b was killed by the kernel: out of memory") == "SIGKILL"
    assert shown("was killed by signal KILL, probably by the kernel: memory had run out") == "SIGKILL"
