"""The user's process: its argv, its environment, and the fork that becomes it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal

from . import machine, procs, stall
from .interpreter import DEFAULT_PATH
from .jobdir import JobDir, Refusal, expand, is_env_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence

KEPT_FROM = 100  # numbers of kept files: a shell script takes small ones for its own, as by "exec 5>log"
_OURS = (
    "RL_COMMAND_ID", "RL_JOB_ID", "RL_LAUNCH_ID", "RL_RUN_ID", "RL_ATTEMPT", "RL_NODE_RANK", "RL_JOB_DIR",
    "RL_HEARTBEAT_FILE", "RL_IN_SCOPE", "RL_SLOTS",
)


def environment(spec: dict[str, Any], workdir: str, job: JobDir, login: dict[str, str]) -> dict[str, str]:
    """Given the login environment, return the job's: what the spec unsets, sets, prepends and appends;
    secrets included."""
    unset = [*(spec.get("unset_env") or ()), *_OURS]
    env = {name: value for name, value in login.items() if not _matches(name, unset)}
    env.update(spec.get("env") or {})
    env.update(spec.get("secret_env") or {})
    ours = {
        "RL_JOB_ID": job.job_id, "RL_LAUNCH_ID": spec.get("launch_id"), "RL_RUN_ID": spec.get("run_id"),
        "RL_ATTEMPT": spec.get("attempt") or 0, "RL_NODE_RANK": spec.get("node_rank"), "RL_JOB_DIR": job.path,
    }
    env.update({name: str(value) for name, value in ours.items() if value is not None})
    before = [expand(path) for path in spec.get("path_prepend") or ()]
    env["PATH"] = ":".join([*before, env.get("PATH") or DEFAULT_PATH])
    after = [_in_workdir(path, workdir) for path in spec.get("pythonpath_append") or ()]
    if after:
        env["PYTHONPATH"] = ":".join([*filter(None, [env.get("PYTHONPATH")]), *after])
    prefix = os.path.dirname(os.path.dirname(expand(spec["python"]))) if "/" in spec.get("python", "") else ""
    if prefix and os.path.isfile(os.path.join(prefix, "pyvenv.cfg")):
        env["VIRTUAL_ENV"] = prefix
    stall.prepare(env, spec, job)
    return env


def _matches(name: str, patterns: list[str]) -> bool:
    return any(name.startswith(word[:-1]) if word.endswith("*") else name == word for word in patterns)


def _in_workdir(path: str, workdir: str) -> str:
    return expand(path) if path.startswith("~") else os.path.normpath(os.path.join(workdir, path))


def arguments(spec: dict[str, Any], job: JobDir, env: dict[str, str], program: str) -> list[str]:
    """Given a spec, return the argv to execute. Raises Refusal when the environment's interpreter isn't there
    (torchrun jobs)."""
    if spec.get("argv"):
        first, *rest = spec["argv"]
        return [expand(first) if first.startswith("~/") else first, *rest]
    if spec.get("shell") is not None:
        return ["/bin/sh", "-c", spec["shell"]]
    python = spec.get("python") or "python3"
    found = expand(python) if python.startswith("~") else machine.which(python, env["PATH"])
    if not found or not os.access(found, os.X_OK):
        raise Refusal("MissingProgramError", f"the interpreter {python} is not there", "rl prepare")
    return [found, program, "torchrun", "--log-dir", job.ranks, "--redirects", "3", *spec["torchrun"]]


class Child:
    """A forked process that waits for ``release`` before it becomes the user's program.

    The supervisor can so write down the child's pid before any of the user's code runs: a job is never
    running unrecorded. ``keep`` are files that it is to have open too (slots: see ``slots``).
    """

    def __init__(
        self, argv: list[str], env: dict[str, str], cwd: str, job: JobDir, umask: int,
        keep: Sequence[int] = (),
    ) -> None:
        self.argv = argv
        self.cwd = cwd
        parent = os.getpid()
        opened: list[int] = []
        try:
            opened.append(os.open(job.out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            opened.append(os.open(job.err, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            opened += os.pipe()
            opened += os.pipe()
            self.pid = os.fork()
        except OSError:  # too many files, or processes: another attempt may find room
            for fd in opened:
                os.close(fd)
            raise
        out, err, go_read, self._go, self._status, status_write = opened
        if self.pid == 0:
            os.close(self._go)
            os.close(self._status)
            _become(argv, env, cwd, (out, err), umask, parent, go_read, status_write, keep)
        for fd in (out, err, go_read, status_write):
            os.close(fd)

    def release(self) -> None:
        """Let it become the program. Raises Refusal, with the child ended and reaped, when that is
        impossible."""
        os.write(self._go, b"g")
        os.close(self._go)
        answer = b""
        while True:
            part = os.read(self._status, 4096)
            if not part:
                break
            answer += part
        os.close(self._status)
        if answer:
            os.waitpid(self.pid, 0)
            where, _, code = answer.decode().partition(" ")
            raise self._refusal(where, int(code))

    def abandon(self) -> None:
        """End it before it became anything."""
        os.close(self._go)
        os.close(self._status)
        os.waitpid(self.pid, 0)

    def _refusal(self, where: str, code: int) -> Refusal:
        reason = os.strerror(code)
        if where == "chdir":
            return Refusal(
                "WorkspaceError", f"the folder {self.cwd} can't be entered: {reason}", "rl rsync"
            )
        program = self.argv[0]
        if code == errno.ENOENT:
            return Refusal("MissingProgramError", f"command not found: {program}")
        return Refusal("StartError", f"{program} can't be executed: {reason}")


def _become(
    argv: list[str], env: dict[str, str], cwd: str, outputs: tuple[int, int], umask: int, parent: int,
    go: int, status: int, keep: Sequence[int] = (),
) -> None:
    """In the forked child: set the stage, wait for the word, execute. Never returns."""
    where = "start"
    try:
        for fd in keep:
            try:
                fcntl.fcntl(fd, fcntl.F_DUPFD, KEPT_FROM)
            except OSError:  # a limit of fewer open files
                os.set_inheritable(fd, True)
        for name in ("TERM", "INT", "HUP", "QUIT", "CHLD", "PIPE", "XFSZ"):
            signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)
        procs.die_with_parent(parent)
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for target, fd in enumerate((null, *outputs)):
            os.dup2(fd, target)
        if os.read(go, 1) != b"g":
            os._exit(1)
        os.umask(umask)
        where = "chdir"
        os.chdir(cwd)
        where = "exec"
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(status, f"{where} {error.errno or errno.EIO}".encode())
    except BaseException:  # noqa: BLE001 - a forked child must not run its parent's code on
        os.write(status, f"{where} {errno.EINVAL}".encode())
    finally:
        os._exit(127)


def check_spec(spec: Any) -> dict[str, Any]:
    """Given what came on stdin, return it when it is a job spec. Raises Refusal, saying which field is wrong,
    before anything is made."""
    if not isinstance(spec, dict):
        raise Refusal("RequestError", "the request holds no job spec")
    if spec.get("version") != 1:
        raise Refusal(
            "RequestError", f"job spec version {spec.get('version')!r} is not known here (1 is)", "update rl"
        )
    given = [name for name in ("argv", "shell", "torchrun") if spec.get(name) is not None]
    if len(given) != 1:
        raise Refusal("RequestError", "a job spec has exactly one of argv, shell and torchrun")
    for name in ("argv", "torchrun", "unset_env", "path_prepend", "pythonpath_append"):
        value = spec.get(name) or []
        if not isinstance(value, list) or not all(
            isinstance(word, str) and "\0" not in word for word in value
        ):
            raise Refusal("RequestError", f"{name} is not a list of texts")
    for name in ("shell", "cwd", "launch_id", "run_id", "python", "server", "notify"):
        if not isinstance(spec.get(name) or "", str) or "\0" in (spec.get(name) or ""):
            raise Refusal("RequestError", f"{name} is not text")
    for name in ("env", "secret_env"):
        value = spec.get(name) or {}
        if not isinstance(value, dict) or not all(
            is_env_name(key) and isinstance(word, str) and "\0" not in word for key, word in value.items()
        ):
            raise Refusal("RequestError", f"{name} is not an object of variable names and texts")
    if spec.get("argv") == []:
        raise Refusal("RequestError", "argv is empty")
    return spec
