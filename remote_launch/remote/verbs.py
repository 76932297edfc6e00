"""The command line of the program: ``python3 rl-<hash>.pyz <verb>``; one JSON object on stdin, one JSON line
on stdout."""

from __future__ import annotations

import gc
import importlib
import json
import sys

from .jobdir import Refusal
from .request import read_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERBS = (
    "start", "probe", "preflight", "reach", "checkup", "gpus", "kill", "follow", "workspace", "storage",
    "removal", "queue", "outputs", "prepare", "fetch", "allreduce", "torchrun",
)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return the process's exit code."""
    argv = sys.argv[1:] if argv is None else argv
    verb = argv[0] if argv else ""
    if verb not in VERBS:
        print(f"usage: rl.pyz {{{'|'.join(VERBS)}}}  (one JSON object on stdin)", file=sys.stderr)
        return 2
    if verb == "torchrun":
        from . import torchrun

        return torchrun.main(argv[1:])
    if verb == "allreduce":
        from . import allreduce

        return allreduce.main()
    try:
        request = read_request()
        if verb == "follow":
            from . import follow

            return follow.follow(request)
        if verb == "prepare" and request.get("op") == "run":
            from . import prepare

            return prepare.run(request)
        if verb == "fetch":
            from . import downloads

            return downloads.run(request)
        answer = _answer(verb, request)
    except Refusal as refusal:
        answer = refusal.to_wire()
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        answer = Refusal("ServerError", f"{verb}: {error.strerror or error}{where}").to_wire()
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    gc.freeze()  # the process ends: going through all it holds for cycles would take 2 ms
    return 0


def _answer(verb: str, request: dict[str, Any]) -> dict[str, Any]:
    # Each verb imports only what it needs: an archive's modules are compiled anew in every process.
    if verb == "start":
        from . import logind, start

        return logind.start_in_scope(request) or start.start(request)
    if verb == "probe":
        from . import states

        return states.probe(request)
    if verb == "gpus":
        from . import gpus

        return gpus.survey()
    if verb == "prepare":
        from . import prepare

        return prepare.check(request)
    answer: dict[str, Any] = getattr(importlib.import_module(f".{verb}", __package__), verb)(request)
    return answer
