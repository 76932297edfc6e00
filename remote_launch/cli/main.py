"""The command ``rl``: a lazy group, and the one place that catches errors.

A command's module is imported when the command runs, so ``rl --help`` loads click and nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from remote_launch import __version__
from remote_launch.errors import RemoteLaunchError

if TYPE_CHECKING:
    from collections.abc import Iterator

# name: (module in this package, the function's name there, one line for --help), in the order of --help, by
# section.
COMMANDS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Set up": {
        "init": ("setup", "init", "Make .remote/ here: servers, excludes, environment"),
        "servers": ("setup", "servers", "List the servers; --check asks each what it has"),
        "doctor": ("doctor", "doctor", "Examine the servers: what won't work, and what to do"),
        "authorize": ("authorize", "authorize", "Use a password once to install a key"),
        "prepare": ("prepare", "prepare", "Code, environment and packages on every server"),
        "setup": ("prepare", "setup", "Only create the Python environment"),
        "rsync": ("prepare", "rsync", "Only send the project"),
        "update-packages": ("prepare", "update_packages", "Only install the packages"),
        "env": ("environments", "env", "Each server's Python environment: is it up to date?"),
        "clean": ("environments", "clean", "Remove environments, code, ended jobs, caches; asks first"),
        "disconnect": ("setup", "disconnect", "End the kept ssh connections"),
    },
    "Run": {
        "torch-launch": ("launch", "torch_launch", "torchrun on all servers at once"),
        "run": ("run", "run", "One command on one server, in the foreground"),
        "job-run": ("run", "job_run", "One command as a job, in the background"),
        "ssh": ("shell", "ssh", "A shell on a server, in the project's folder"),
        "forward": ("forward", "forward", "A port of a server here: TensorBoard, Jupyter, debuggers"),
        "helper-torch-launch": ("launch", "helper_torch_launch", "torch-launch with labml_remote's options"),
    },
    "Jobs": {
        "queue": ("queue", "queue", "Who has the servers' slots and cards, and who waits for them"),
        "job-list": ("jobs", "job_list", "Jobs and their states"),
        "job-show": ("jobs", "job_show", "One job or launch: why it ended, its last lines"),
        "job-tail": ("job_tail", "job_tail", "The last lines of a job; goes on until it ends"),
        "job-wait": ("job_actions", "job_wait", "Wait for jobs; exit with their exit code"),
        "attach": ("shell", "attach", "A shell in a job's folder, on its server"),
        "job-kill": ("job_actions", "job_kill", "Stop jobs, with all their processes"),
        "job-rsync": ("job_actions", "job_rsync", "Bring the logs of jobs back"),
        "pull": ("pull", "pull", "Bring files of the servers back: checkpoints, outputs"),
        "push-outputs": ("outputs", "push_outputs", "Copy one server's outputs to the others"),
        "job-rm": ("job_remove", "job_rm", "Remove ended jobs, on the servers and here; asks first"),
        "job-prune": ("job_remove", "job_prune", "Remove old jobs, on the servers and here; asks first"),
    },
}
_NOTICED_AFTER_S = 0.3
_BY_NAME = {name: entry for section in COMMANDS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used; help is drawn from the table above."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of our output that is gone (rl job-list | head) is no error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click's own main would exit with 1; nothing more may be written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_BY_NAME)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        name = cmd_name.replace("_", "-")
        if name not in _BY_NAME:
            return None
        module, attribute, _ = _BY_NAME[name]
        command = getattr(importlib.import_module(f"remote_launch.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0].replace("_", "-") not in _BY_NAME:
            from remote_launch.errors import did_you_mean

            raise click.UsageError(f"no command {args[0]!r}{did_you_mean(args[0], _BY_NAME)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name, entry[2]) for name, entry in commands.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option(
    "--project", metavar="DIR", help="The project's folder [default: found upward from here, or $RL_PROJECT]."
)
@click.version_option(__version__, "-V", "--version", prog_name="rl", message="%(prog)s %(version)s")
@click.pass_context
def rl(ctx: click.Context, project: str | None) -> None:
    """Run distributed PyTorch on the machines you can ssh to.

    \b
    rl init                                         describe your servers
    rl prepare                                      environment, code and packages on all of them
    rl torch-launch --nproc-per-node 2 train.py     train on all of them
    rl job-tail                                     watch it; the laptop may be closed at any time
    """
    ctx.obj.update(project=project, command=(ctx.invoked_subcommand or "rl").replace("_", "-"))


def main() -> None:
    """Run the command line; exits with the code that the command or the error says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a character that the terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="replace")
    for number in (
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # a closed terminal ends what rl runs on the servers, as Ctrl-C does
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup rl … stays as asked
            signal.signal(number, _interrupt)
    with _noticed_interrupts():
        code = run(sys.argv[1:])
    gc.freeze()  # the process ends: going through all it holds for cycles would take 10 ms
    sys.exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _noticed_interrupts() -> Iterator[None]:
    """Have each wait ended for an instant, time and again: a Ctrl-C that came just before one began, after
    Python last looked, would else be noticed only when it is over."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _NOTICED_AFTER_S, _NOTICED_AFTER_S)
    try:
        yield
    finally:  # Python's own end gives the signal its meaning back, which is to end the process
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(argv: list[str]) -> int:
    """Given arguments, run the command and return its exit code. Everything a user can meet is caught here,
    and only here."""
    state: dict[str, Any] = {}  # what the command line turned out to say: project, command, json
    try:
        result = rl.main(argv, prog_name="rl", standalone_mode=False, obj=state)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        error.show()
        return int(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except RemoteLaunchError as error:
        from remote_launch.cli.output import show_error

        show_error(error, as_json=bool(state.get("json")), command=str(state.get("command", "rl")))
        return error.exit_code
    return result if isinstance(result, int) else 0
