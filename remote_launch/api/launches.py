"""Launches, from Python: one script on several servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.api.jobs import TAIL_LINES, Job, as_tags, tail_of
from remote_launch.api.project import PROJECT
from remote_launch.errors import ServersFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet


class Launch:
    """One script on several servers: ``jobs`` has a job for each node, by node rank, then the spares."""

    def __init__(self, fleet: Fleet, launch_id: str, records: Sequence[JobRecord]) -> None:
        self._fleet = fleet
        self.launch_id = launch_id
        self.jobs = [Job(fleet, record) for record in records]

    def __repr__(self) -> str:
        return f"<Launch of {len(self.jobs)} jobs {[job.key for job in self.jobs]}>"

    def wait(self, timeout: float | None = None) -> int:
        """Wait until every node has ended; return 0, or the exit code of what failed first (128+n for signal
        n). Raises JobStateError after ``timeout`` seconds (None: no end), or where what it came to can't be
        known; the launch goes on."""
        from remote_launch.operations.wait import wait_jobs

        records, verdict = wait_jobs(self._fleet, self._records(), timeout_s=timeout)
        self.jobs = [Job(self._fleet, record) for record in records]
        return verdict.exit_code

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines of rank 0. Raises what keeps its server from telling."""
        return tail_of(self._fleet, self._records()[:1], lines, ranks=(0,))

    def kill(self) -> None:
        """Stop every node with all its processes. Raises ServersFailedError where one can't be said to have
        ended."""
        from remote_launch.operations.kill import kill_jobs

        running = [record for record in self._records() if not record.state.is_terminal]
        failures = {one.job.server: one.failure for one in kill_jobs(self._fleet, running)}
        if any(failures.values()):
            raise ServersFailedError(failures, "not stopped for certain")

    def _records(self) -> list[JobRecord]:
        return self._fleet.registry.launch(self.launch_id)


def launch(
    script: str,
    args: Sequence[str] = (),
    *,
    nproc_per_node: str | int | None = None,
    servers: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    module: bool = False,
    master: str | None = None, master_port: int | None = None,
    grace_s: float = 15.0,
    nnodes: int | None = None, spares: int | None = None,
    max_restarts: int | None = None, restart_window_s: float | None = None,
    stall_timeout_s: float | None = None, notify: str | None = None,
    gpus: Sequence[str] = (), gpus_per_node: int | None = None, busy_gpus: bool = False,
    queue: bool = False, slots: int | None = None, check: bool = True,
) -> Launch:
    """Run ``script`` under torchrun on all servers (or those named); return at once with the launch.

        run = launch("train.py", ["--epochs", "3"], nproc_per_node="gpu", max_restarts=2)
        exit_code = run.wait()

    The arguments are those of ``rl torch-launch``:

    - ``script``, ``args``: what every rank runs; with ``module`` the name of a module, as for python -m.
    - ``nproc_per_node``: ranks a server: a number, "gpu", "cpu" or "auto"; None as the inventory has it.
    - ``servers``: their names, all for none. In the inventory's order the first is node 0, unless ``master``
      names another one. ``master_port``: where the ranks meet; None is a free port, asked of the master.
    - ``nnodes``, ``spares``: of these servers, how many take part, how many stand by to replace a lost one.
    - ``env``, ``tags``: variables for the ranks, words to find the jobs by.
    - ``grace_s``: seconds between TERM and KILL when it is stopped.
    - ``max_restarts``, ``restart_window_s``: after a failure all nodes start again, so many times (within so
      many seconds). ``stall_timeout_s``: it is stopped after so many seconds in which no rank had output.
      ``notify``: a shell command that node 0's server runs after the end. None is as the inventory has it; 0,
      or "", none.
    - ``gpus``: the cards by index or uuid, "0,2" or for one server "gpu-a:0,1"; or ``gpus_per_node`` free
      ones; ``busy_gpus``: those that others hold may be used, too.
    - ``queue``, ``slots``: each node waits on its server until a slot for each of its ranks, or so many, are
      free.
    - ``check``: before the start, see whether the nodes reach each other and have one torch.

    Raises TopologyError or UsageError for what can't be laid out, and the error of the server (of several:
    ServersFailedError) that keeps a node from taking part: nothing runs then."""
    from remote_launch.core.torchrun import Script
    from remote_launch.operations.launch import LaunchRequest, plan_launch, start_launch

    fleet = PROJECT.fleet()
    request = LaunchRequest(
        script=Script(name=script, args=tuple(args), module=module),
        servers=servers,
        nproc_per_node=nproc_per_node,
        env=env or {},
        tags=as_tags(tags),
        master=master, master_port=master_port,
        grace_s=grace_s,
        nnodes=nnodes, spares=spares,
        max_restarts=max_restarts, restart_window_s=restart_window_s,
        stall_timeout_s=stall_timeout_s, notify=notify,
        gpus=gpus, gpus_per_node=gpus_per_node, busy_gpus=busy_gpus,
        queue=queue or slots is not None, slots=slots, check=check,
    )
    plan = plan_launch(fleet, request)
    return Launch(fleet, plan.launch_id, start_launch(fleet, plan))
