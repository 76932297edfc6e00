"""A foreground command on one server, in the project's environment; its output streams, its exit code is
passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.environments.places import environment_path
from remote_launch.transport.command import Command, quote, quote_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.transport.base import Completed

# Programs that one expects to be the environment's.
_OF_ENVIRONMENT = ("python", "python3", "pip", "torchrun")
# $1 the environment's bin folder ("" for none), then the command's words.
_RUN = """
if [ -n "$1" ] && [ -d "$1" ]; then PATH=$1:$PATH; export PATH; fi
shift
PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$PWD:$PWD/src; export PYTHONPATH
exec "$@"
"""


def run_command(
    fleet: Fleet,
    server: Server,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout_s: float | None = None,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
) -> Completed:
    """Run ``argv`` in the server's workdir (while there is none: its home folder, with a note on stderr) to
    its end; any exit code is a result.

    Its output is kept in ``.remote/logs`` too; what it was given on stdin, and the environment, are not."""
    folders = environment_path(server)
    # The words are values, not paths: "~/x" typed in quotes stays as typed, so they go as one quoted script.
    words = " ".join(quote(word) for word in argv)
    folder = quote_path(folders[0]) if folders else quote("")
    # Before the first rl prepare there is no workdir: a look around is wanted then, not a surprise.
    note = f"rl: there is no {server.workdir} yet (rl prepare makes it): running in the home folder"
    enter = f"cd {quote_path(server.workdir)} 2>/dev/null || {{ echo {quote(note)} >&2; cd; }}"
    if folders and argv[0] in _OF_ENVIRONMENT:
        bare = f"rl: there is no environment in {folders[0]} yet (rl prepare makes it): PATH's {argv[0]} runs"
        enter += f"\n[ -d {folder} ] || echo {quote(bare)} >&2"
    script = f"{enter}\nset -- {folder} {words}\n{_RUN}"
    variables = {**server.env, **(env or {})}
    path = fleet.log_file(server.name, f"run-{argv[0].rpartition('/')[2][:40]}")
    path.touch(mode=0o600)  # what a command prints may be nobody else's business
    with path.open("ab") as file:

        def kept(show: Callable[[bytes], None]) -> Callable[[bytes], None]:
            def take(chunk: bytes) -> None:
                file.write(chunk)
                show(chunk)

            return take

        done = fleet.transport(server.name).run(
            Command([], env=variables, shell=script, label=" ".join(argv)),
            stdin=stdin,
            timeout_s=timeout_s,
            on_stdout=kept(on_stdout),
            on_stderr=kept(on_stderr),
        )
    fleet.log(
        server.name,
        f"run {argv[0]}",
        exit_code=done.exit_code,
        duration_s=round(done.duration_s, 3),
        output=path.name,
    )
    return done
