"""What a launch asks of each server before anything is started there, and what it makes of the answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.places import environment_python
from remote_launch.core.topology import NodeFacts
from remote_launch.errors import TopologyError, UsageError, did_you_mean
from remote_launch.operations import told
from remote_launch.operations.outputs import output_globs
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remote_launch.core.inventory import Server
    from remote_launch.core.torchrun import Script
    from remote_launch.operations.fleet import Fleet

PORTS_ASKED = 2  # the master's, and the one that the supervisors meet on
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:%@-]{0,252}\Z|:[0-9A-Fa-f:.%]+\Z")  # an address, an interface


def check_script(fleet: Fleet, script: Script) -> None:
    """Refuse a script that the project doesn't have, before anything is asked of a server."""
    root = fleet.project.root
    if script.module:
        top = script.name.split(".", maxsplit=1)[0]
        # An installed package is no file of ours: only a module that lies in the project can be checked, on
        # the server.
        if not top.isidentifier():
            raise UsageError(
                f"-m {script.name}: not the name of a module", hint="for example: -m package.train"
            )
        return
    if script.name.startswith(("/", "~")):
        return  # a path on the server
    path = root / script.name
    if not path.exists():
        scripts = [str(p.relative_to(root)) for p in root.glob("*.py")] + [
            str(p.relative_to(root)) for p in root.glob("*/*.py")
        ]
        raise UsageError(
            f"{script.name} is not in the project {root}{did_you_mean(script.name, scripts)}",
            hint="the script's path is relative to the project's folder; for a module use -m",
        )


def ask_node(
    fleet: Fleet, server: Server, script: Script, ways: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Ask one server what a launch must know of it, and to try these ways. Raises TopologyError where it
    can't take part, and why."""
    answer = call(
        fleet,
        server,
        "preflight",
        {
            "script": None if script.module else script.name,
            "module": script.name if script.module else None,
            "python": environment_python(server),
            "ports": PORTS_ASKED,
            "outputs": [glob.to_wire() for glob in output_globs(fleet)],
            "address": server.address,
            **({"ways": ways} if ways else {}),
        },
        timeout_s=30,
    )
    if not answer.get("workdir_exists") or not answer.get("workspace"):
        raise TopologyError(
            f"{server.name}: the project has not been sent there yet ({server.workdir})", hint="rl prepare"
        )
    if not answer.get("python"):
        raise _no_python(server)
    if answer.get("torch") is False:
        raise TopologyError(
            f"{server.name}: torch is not installed in {answer['python']}",
            hint="add torch to requirements.txt, then rl prepare (or rl update-packages)",
        )
    if not script.module and not answer.get("script_exists"):
        raise TopologyError(
            f"{server.name}: {script.name} is not there", hint=_why_not_there(fleet, script.name)
        )
    return answer


def _no_python(server: Server) -> TopologyError:
    python = environment_python(server)
    if server.environment.manager == "none":  # no prepare will make it
        return TopologyError(
            f"{server.name}: there is no {python} there, which manager: none is to use",
            hint="environment.python in the inventory names it; a server may have its own",
        )
    return TopologyError(f"{server.name}: there is no environment there yet ({python})", hint="rl prepare")


def _why_not_there(fleet: Fleet, name: str) -> str:
    """Given a script that is here but not on the server, return why and what to do."""
    from remote_launch.operations.sync import project_files

    if name.startswith(("/", "~")):
        return "the path is one on the server: check it with rl run"
    if name not in {file.path for file in project_files(fleet)}:
        return f"the sync leaves {name} out: see {fleet.project.exclude_file.name} and sync: in configs.yaml"
    return "send the project first: rl rsync"


def node_facts(server: Server, answer: Mapping[str, Any]) -> NodeFacts:
    """Given a server's answer, return it checked: it goes into other servers' command lines, and to the
    terminal."""
    ports = answer.get("ports")
    facts = NodeFacts(
        server=server.name,
        address=server.address or told.text(answer.get("address")) or "",
        interface=told.text(answer.get("interface")),
        cpus=told.number(answer.get("cpus")) or 1,
        gpus=len(told.mappings(told.mapping(answer.get("gpus")).get("cards"))),
        ports=tuple(port for port in map(told.port, ports) if port) if isinstance(ports, list) else (),
    )
    words = (facts.address, facts.interface or "lo", *map(str, facts.ports))
    workdir = told.text(answer.get("workdir")) or "\n"
    if not (all(_WORD.match(word) for word in words) and workdir.isprintable()):
        raise TopologyError(
            f"{server.name}: its preflight's answer makes no sense (address {facts.address!r})",
            hint="set address: in the inventory; is the python3 there in order?",
        )
    return facts
