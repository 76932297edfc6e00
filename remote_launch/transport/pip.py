"""Wheels for another machine, downloaded here. uv chooses the versions, since pip takes the markers
(python_version, platform_machine …) of the interpreter that runs it; pip downloads them."""

from __future__ import annotations

import dataclasses
import os
import platform as this_machine
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.errors import CommandError, last_lines
from remote_launch.transport.command import mask_urls
from remote_launch.transport.pip_errors import INSTALL_UV, NO_MATCH, failure, network_failed, no_wheel
from remote_launch.transport.pip_programs import LOOK_S, Pip, Programs
from remote_launch.transport.pip_settings import (
    pip_environment,
    split_arguments,
    uv_environment,
    without_index,
)
from remote_launch.transport.programs_here import uv_here
from remote_launch.transport.requirements import (
    joined_lines,
    normal_name,
    read_requirements,
    without_editable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from remote_launch.transport.process import Cancel

PIP_INDEX = "https://pypi.org/simple"
_UV_INDEXES = ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*==")
_FROM = re.compile(r"\s+# from (\S+)\Z")
_PURE = re.compile(r"-(?:py2\.)?py3-none-any\.whl\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WheelTarget:
    """The machine that wheels are for, in the words of pip and uv."""

    python: str  # "3.11" or "3.11.7"
    implementation: str
    abis: tuple[str, ...]
    platforms: tuple[str, ...]
    machine: str
    uv_platform: str | None  # None: uv knows no name for it
    words: str  # for people: "Python 3.11 on x86_64, glibc 2.36"


@dataclasses.dataclass(frozen=True, slots=True)
class _Download:
    here: Programs
    pip: Pip
    target: WheelTarget
    destination: Path
    words: list[str]  # more arguments of pip's

    def argv(self, requirements: Path, *more: str) -> list[str]:
        """Return pip's command line."""
        target = self.target
        argv = [*self.pip.argv, "download", "--only-binary=:all:", "--implementation", target.implementation]
        argv += ["--python-version", target.python, "--dest", str(self.destination)]
        argv += [word for abi in target.abis for word in ("--abi", abi)]
        argv += [word for tag in target.platforms for word in ("--platform", tag)]
        return [*argv, *self.words, *more, "-r", str(requirements)]

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run pip; return its exit code and all that it printed."""
        ended = self.here.run(argv, pip_environment(self.here.env), tell="out err")
        return ended.returncode, (ended.stdout + b"\n" + ended.stderr).decode("utf-8", "replace")


def download_wheels(
    requirements: Path,
    target: WheelTarget,
    destination: Path,
    *,
    project_dir: Path,
    env: Mapping[str, str],
    pip_args: Sequence[str] = (),
    on_line: Callable[[str], None],
    cancel: Cancel | None = None,
) -> list[Path]:
    """Download what a requirements file asks for into the empty folder ``destination``, for ``target``, and
    return the wheels.

    ``env`` says where packages are, in pip's names (PIP_INDEX_URL …). Local paths are relative to
    ``project_dir``. Raises ConfigError for a file that isn't there, CommandError for anything that can't be
    had; ``destination`` may then hold some of the wheels.
    """
    given, for_uv, for_pip = split_arguments(pip_args)
    here = Programs({**env, **given}, project_dir, on_line, cancel)
    asked = read_requirements(requirements, base=project_dir)
    job = _Download(here, here.pip(), target, destination, for_pip)
    if target.uv_platform is None or uv_here() is None:
        _without_uv(job, requirements)
    else:
        lines = [_with_hashes(line, asked.hashes) for line in _resolve(job, requirements, for_uv)]
        with tempfile.TemporaryDirectory(prefix="rl-wheels-") as scratch:
            _fetch(job, lines, Path(scratch))
    others = [path.name for path in destination.iterdir() if path.suffix != ".whl"]
    if others:
        raise no_wheel(others[0], target.words, ": only its source was found")
    return sorted(destination.glob("*.whl"))


def export_lock(words: Sequence[str], project_dir: Path, *, cancel: Cancel | None = None) -> str:
    """Return what uv prints for ``words`` (of ``uv export``) in the project's folder. Raises CommandError."""
    uv = uv_here()
    if uv is None:
        raise CommandError("uv.lock can only be read by uv, which is not on this machine", hint=INSTALL_UV)
    programs = Programs({}, project_dir, lambda _line: None, cancel)
    ended = programs.run([str(uv), *words], os.environ)
    if ended.returncode != 0:
        tail = last_lines(mask_urls(ended.stderr.decode("utf-8", "replace")))
        raise CommandError(
            f"uv export: exit code {ended.returncode}\n{tail}",
            command="uv export",
            exit_code_of_command=ended.returncode,
            tail=tail,
            hint="make the lock anew: uv lock",
        )
    return ended.stdout.decode("utf-8", "replace")


def _resolve(job: _Download, requirements: Path, words: Sequence[str]) -> list[str]:
    """Return the lines to download: every package with its version, chosen for the target."""
    here, target = job.here, job.target
    listed = here.run([*job.pip.argv, "config", "list"], pip_environment(here.env), timeout_s=LOOK_S)
    settings = listed.stdout.decode("utf-8", "replace")
    env = uv_environment(here.env, settings)
    argv = [str(uv_here()), "pip", "compile", "--no-header", "--no-annotate", "--emit-index-annotation"]
    argv += ["--color", "never", "--no-python-downloads", "--python", sys.executable]
    argv += ["--python-version", target.python, "--python-platform", str(target.uv_platform), *words]
    argv += ["--no-index"] if without_index(settings) else []
    # Versions that have a wheel are preferred; a package that has none at all may still be built here.
    for only in (["--only-binary", ":all:"], []):
        ended = here.run([*argv, *only, str(requirements)], env, tell="err" if not only else "")
        output = ended.stderr.decode("utf-8", "replace")
        if ended.returncode == 0 or network_failed(output):
            break
    if ended.returncode != 0:
        raise failure(output, ended.returncode, "uv pip compile", target.words)
    return _lines_of(ended.stdout.decode("utf-8", "surrogateescape"), env)


def _lines_of(compiled: str, env: Mapping[str, str]) -> list[str]:
    """Return the packages, after the indexes that uv found them in and pip may not know of."""
    words = " ".join([PIP_INDEX, *env.values()]).replace(",", " ").split()
    known = {_plain(word) for word in words}
    own = {_plain(word): word for name in _UV_INDEXES for word in os.environ.get(name, "").split()}
    indexes = []
    for line in compiled.splitlines():
        found = _FROM.match(line)
        if found and _plain(found[1]) not in known:
            known.add(_plain(found[1]))
            indexes.append(own.get(_plain(found[1]), found[1]))  # uv prints no login
    options = []
    for url in indexes:
        if url.startswith("file:") or url.endswith((".html", ".htm")):
            options.append(f"--find-links {url}")
        if not url.endswith((".html", ".htm")):
            options.append(f"--extra-index-url {url}")
    return options + list(joined_lines(compiled))


def _plain(url: str) -> str:
    """Return an index's URL, or a folder, as it can be compared: without its login."""
    return re.sub(r"(?<=://)[^/@]*@", "", url).removeprefix("file://").rstrip("/")


def _with_hashes(line: str, hashes: Mapping[str, Sequence[str]]) -> str:
    """Return the line with the hashes that the requirements ask for: uv reads them and prints none."""
    name = _PINNED.match(line)
    if not name or "--hash" in line:
        return line
    return " ".join([line, *(f"--hash={value}" for value in hashes.get(normal_name(name[1]), ()))])


def _fetch(job: _Download, lines: list[str], scratch: Path) -> None:
    """Download every line's wheel; build those that are sources. A package without a wheel is known by pip's
    word only, one at a time: what was downloaded before is found again."""
    options = [line for line in lines if line.startswith("-") and not line.startswith(("-e", "--editable"))]
    packages = [line for line in lines if line not in options]
    to_build = [line for line in packages if _is_source(line)]
    wanted = [line for line in packages if line not in to_build]
    file = scratch / "resolved.txt"
    while wanted:
        _write_lines(file, [*options, *wanted])
        exit_code, output = job.run(job.argv(file, "--no-deps"))
        if exit_code == 0:
            break
        named = NO_MATCH.search(output)
        missing = [line for line in wanted if named and _same_package(line, named[1])]
        if not missing or network_failed(output):
            raise failure(output, exit_code, "pip download", job.target.words)
        to_build += missing
        wanted = [line for line in wanted if line not in missing]
    for number, line in enumerate(to_build):
        _build(job, [*options, without_editable(line)], scratch / str(number))


def _is_source(line: str) -> bool:
    """True for a folder, a repository or an archive; False for a pinned version and for a wheel."""
    if _PINNED.match(line):
        return False
    return not re.sub(r"[#?].*|\s.*", "", without_editable(line).split(" @ ")[-1].strip()).endswith(".whl")


def _same_package(line: str, requirement: str) -> bool:
    found, named = re.match(r"[\w.\-]+", line), re.match(r"[\w.\-]+", requirement)
    return bool(found and named and normal_name(found[0]) == normal_name(named[0]))


def _build(job: _Download, lines: Sequence[str], folder: Path) -> None:
    """Build one package here, and keep it when its wheel runs anywhere."""
    folder.mkdir()
    file = folder.with_suffix(".txt")
    _write_lines(file, lines)
    argv = [*job.pip.argv, "wheel", "--no-deps", "--ignore-requires-python", "--wheel-dir", str(folder)]
    exit_code, output = job.run([*argv, "-r", str(file)])
    what, output = mask_urls(lines[-1].split(" --hash")[0]), mask_urls(output)
    built = list(folder.glob("*.whl"))
    if exit_code != 0 or len(built) != 1:
        why = f", and it can't be built on this machine\n{last_lines(output, 12)}"
        raise no_wheel(what, job.target.words, why, output)
    if not _PURE.search(built[0].name):
        tag = "-".join(built[0].stem.split("-")[-3:])
        raise no_wheel(what, job.target.words, f": built on this machine it is for {tag} only", output)
    shutil.move(str(built[0]), job.destination / built[0].name)


def _without_uv(job: _Download, requirements: Path) -> None:
    """Let pip choose the versions: right only where its own interpreter is as the server's."""
    target, python = job.target, job.pip.python
    mine = f"Python {python} on {this_machine.machine()}, {this_machine.system()}"
    alike = target.python.split(".")[:2] == python.split(".") and this_machine.system() == "Linux"
    if not alike or this_machine.machine() != target.machine:
        raise CommandError(
            f"packages for {target.words} can't be chosen on this machine ({mine}) without uv"
            if target.uv_platform
            else f"uv can't choose packages for {target.words}, and this machine is another ({mine})",
            hint=INSTALL_UV if target.uv_platform else "run rl on a machine like that server",
        )
    exit_code, output = job.run(job.argv(requirements))
    if exit_code != 0:
        raise failure(output, exit_code, "pip download", target.words)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.touch(0o600)  # an index's URL may have a login in it
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
