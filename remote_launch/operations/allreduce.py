"""A real all-reduce over the servers, one rank on each, run by their environments' own python.

The program (``remote/allreduce.py``) ends with its connection, so with this process, and when its time is up.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.places import environment_path, environment_python
from remote_launch.core.findings import Finding
from remote_launch.core.programs import archive_name
from remote_launch.core.ways import gbits
from remote_launch.errors import RemoteLaunchError, last_lines
from remote_launch.operations import told
from remote_launch.operations.verbs import call
from remote_launch.transport.command import Command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet

CHECK = "allreduce"
LIMIT_S = 20.0  # from the end of torch's import on, which takes seconds itself
_IMPORT_S = 60.0  # as in remote/allreduce.py
_SLACK_S = 10.0
_SLOW_IMPORT_S = 10.0
_TAIL_LINES = 4
# $1 the program, $2 the environment's python, $3 its folder or "".
_RUN = """
if [ -n "$3" ]; then PATH=$3:$PATH; export PATH; fi
command -v "$2" >/dev/null 2>&1 || { echo "$2: not there" >&2; exit 127; }
exec "$2" "$1" allreduce
"""
_WAITED = ("timed out", "timeout", "closed by peer", "reset by peer", "connection was closed", "broken pipe")
_STEPS = {"import": "while torch was imported", "meet": "while the ranks met", "reduce": "in the all-reduce"}
_LOOPBACK = (
    "a rank gave the others an address of loopback: set address: in the inventory, or GLOO_SOCKET_IFNAME in "
    "env:, to the interface of the network that they share"
)
_INTERFACE = "set address: in the inventory to one of the network that the servers share"
_REMEDIES = (
    (re.compile(r"127\.0\.1\.1|127\.0\.0\.1"), _LOOPBACK),
    (re.compile(r"No module named 'torch'|not there"), "rl prepare"),
    (re.compile(r"[Uu]nable to find address|no socket interface|SOCKET_IFNAME"), _INTERFACE),
    (re.compile(r"can't use the cards"), "the checks of torch and of the driver say why"),
    (re.compile(r"in use", re.IGNORECASE), "try again: another port is taken then"),
)
_PLACES = re.compile(r"\[(?:enforce fail at )?[^\]\s]*\.(?:cc|cpp|h):\d+\] ?")  # in torch's sources
_REMEDY = "the checks of the ways between the servers may say more; NCCL_DEBUG=INFO in env: makes NCCL talk"


@dataclasses.dataclass(slots=True, kw_only=True)
class _Rank:
    """What one rank has told so far."""

    server: str
    step: str = ""
    torch: str = ""
    import_s: float = 0.0
    error: str = ""
    result: dict[str, Any] | None = None
    buffer: bytes = b""

    def take(self, chunk: bytes) -> None:
        """Read the lines that have come. The login shell may print lines of its own."""
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        self.buffer = self.buffer[-(1 << 16) :]
        for line in lines:
            try:
                said = told.mapping(json.loads(line))
            except (ValueError, RecursionError):
                continue
            self.step = told.text(said.get("step")) or self.step
            self.torch = told.text(said.get("torch")) or self.torch
            self.import_s = float(told.number(said.get("import_s")) or self.import_s)
            self.error = told.text(said.get("error")) or self.error
            if "right" in said:
                self.result = said


def check_allreduce(
    fleet: Fleet,
    servers: Sequence[Server],
    addresses: Mapping[str, str],
    interfaces: Mapping[str, str | None],
    *,
    backend: str = "gloo",
    limit_s: float = LIMIT_S,
) -> list[Finding]:
    """Given servers, and each one's address and interface for the others, add numbers up over all of them by
    ``backend`` (gloo, nccl) and return what came of it: one finding where it works, else who failed and
    how."""
    names = tuple(server.name for server in servers)
    asked = fleet.map(servers, lambda server: call(fleet, server, "reach", {"ask_ports": True}, timeout_s=30))
    port = _port(asked.values.get(names[0]))
    if asked.errors or port is None:
        failed = {name: error.message for name, error in asked.errors.items()}
        return [_failure(backend, failed or {names[0]: "it told no free port"}, "")]
    ranks = {name: _Rank(server=name) for name in names}

    def run(server: Server) -> None:
        interface = interfaces.get(server.name)
        request = {
            "backend": backend,
            "address": addresses[names[0]],
            "port": port,
            "rank": names.index(server.name),
            "world_size": len(names),
            "limit_s": limit_s,
        }
        _run(fleet, server, ranks[server.name], request, _env(server, interface), limit_s)

    fleet.map(servers, run, limit=len(servers)).raise_on_error()
    return _judge(backend, list(ranks.values()))


def _port(answer: Mapping[str, Any] | None) -> int | None:
    ports = (answer or {}).get("ports")
    return told.number(ports[-1]) if isinstance(ports, list) and ports else None  # rl's own, below 32768


def _env(server: Server, interface: str | None) -> dict[str, str]:
    """Return the environment as a launch has it."""
    env = {"OMP_NUM_THREADS": "1"}
    if interface:
        env["GLOO_SOCKET_IFNAME"] = interface
        if interface != "lo":
            env["NCCL_SOCKET_IFNAME"] = f"={interface}"
    return {**env, **server.env}


def _run(
    fleet: Fleet,
    server: Server,
    rank: _Rank,
    request: Mapping[str, Any],
    env: Mapping[str, str],
    limit_s: float,
) -> None:
    """Run one rank to its end; what went wrong goes into ``rank``: all ranks' ends are looked at together."""
    folders = environment_path(server)
    program = f"{server.workdir}/.rl/bin/{archive_name()}"
    argv = [program, environment_python(server), folders[0] if folders else ""]
    try:
        done = fleet.transport(server.name).run(
            Command(argv, shell=_RUN, env=env, label="rl allreduce"),
            stdin=json.dumps(request).encode(),
            timeout_s=_IMPORT_S + limit_s + _SLACK_S,
            on_stdout=rank.take,
        )
    except RemoteLaunchError as error:
        rank.error = rank.error or error.message
        return
    if rank.result is None and not rank.error:
        tail = last_lines(done.stderr.decode("utf-8", "replace"), _TAIL_LINES)
        how = f"signal {done.signal}" if done.signal else f"exit code {done.exit_code}"
        if done.signal == "ALRM":
            how = f"it had not ended after {limit_s:.0f} s"
            if rank.step == "import":
                how = f"torch was not imported after {_IMPORT_S:.0f} s"
        rank.error = f"{how}\n{tail}" if tail else how


def _judge(backend: str, ranks: Sequence[_Rank]) -> list[Finding]:
    names = tuple(rank.server for rank in ranks)
    failed = [rank for rank in ranks if rank.error]
    if failed:
        # Who waits for the one that failed ends with a timeout or a closed connection: that says nothing.
        causes = [rank for rank in failed if not any(word in rank.error.lower() for word in _WAITED)]
        causes = causes or failed
        where = _STEPS.get(causes[0].step, "") if len({rank.step for rank in causes}) == 1 else ""
        failure = _failure(backend, {rank.server: rank.error for rank in causes}, where)
        detail = "; ".join(filter(None, [failure.detail, _imports(ranks)]))
        return [dataclasses.replace(failure, detail=detail)]
    results = [told.mapping(rank.result) for rank in ranks]
    wrong = [name for name, result in zip(names, results, strict=True) if result.get("right") is not True]
    if wrong:
        message = f"an all-reduce over {backend} gives a wrong sum"
        do = "the servers' torch or network hardware is broken: compare versions, try fewer servers"
        return [Finding(check=CHECK, servers=tuple(wrong), level="error", message=message, do=do)]
    size, seconds = told.number(results[0].get("bytes")) or 0, _slowest(results)
    if size <= 0 or seconds <= 0:
        return [_failure(backend, dict.fromkeys(names, "its answer makes no sense"), "")]
    # What each server sends and receives in a ring, for each byte of the sum.
    rate = 2 * (len(ranks) - 1) / len(ranks) * size / seconds
    ranks_word = "rank" if len(ranks) == 1 else "ranks"
    detail = f"{len(ranks)} {ranks_word}, {size / 1e6:.2g} MB in {seconds * 1000:.1f} ms"
    if len(ranks) > 1:
        detail += f", {gbits(rate)}"
    return [
        Finding(
            check=CHECK,
            servers=names,
            level="ok",
            message=f"an all-reduce over {backend} works",
            detail=detail,
            data={
                "backend": backend, "bytes": size, "seconds": seconds, "bytes_per_s": round(rate),
                "torch": {rank.server: rank.torch for rank in ranks},
            },
        )
    ]


def _imports(ranks: Sequence[_Rank]) -> str:
    """Say how long torch's import took where that may be why the ranks didn't meet in time."""
    slow = [f"{rank.import_s:.0f} s on {rank.server}" for rank in ranks if rank.import_s > _SLOW_IMPORT_S]
    slow += [f"not done on {rank.server}" for rank in ranks if rank.step == "import"]
    return f"importing torch: {', '.join(slow)}" if slow else ""


def _slowest(results: Sequence[Mapping[str, Any]]) -> float:
    times = [result.get("seconds") for result in results]
    return max((float(t) for t in times if isinstance(t, int | float) and 0 < t < 1e6), default=0.0)


def _failure(backend: str, errors: Mapping[str, str], where: str) -> Finding:
    """Given what each server said last, return the finding: the first in full, the others by name."""
    text = _PLACES.sub("", next(iter(errors.values())))
    first, *rest = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    do = next((do for pattern, do in _REMEDIES if pattern.search(text)), _REMEDY)
    return Finding(
        check=CHECK,
        servers=tuple(errors),
        level="error",
        message=f"an all-reduce over {backend} failed{' ' + where if where else ''}: {first[:500]}",
        detail="; ".join(line[:200] for line in rest[-_TAIL_LINES:]),
        do=do,
        data={"backend": backend, "errors": {name: error[:2000] for name, error in errors.items()}},
    )
