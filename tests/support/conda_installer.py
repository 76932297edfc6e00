"""A stand-in for Miniforge's installer and for conda itself, where no real one can be downloaded.

It is not conda: nothing is solved, and its one channel has the few packages of ``PACKAGES`` and the Python
of this machine. What is true to the real ones is what rl builds on: the installer's ``-b -p PREFIX``, a
payload after the script, the words of ``conda create`` (any other is an error), what is refused, the error
texts, exit codes, ``conda-meta``, and a prefix whose ``bin/python`` and pip really work.
``RL_TEST_CONDA_INSTALLER`` names a real installer for the test that wants one.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "26.3.2"
PYTHON = ".".join(str(number) for number in sys.version_info[:2])  # the one it has
PACKAGES = {"numpy": "2.1.0", "cuda-nvcc": "12.4.0"}

# The program `conda` (or micromamba, by its name): one file, for the machine's python3.
_CONDA = '''\
import argparse, glob, json, os, re, shutil, sys, venv

NAME = os.path.basename(sys.argv[0])
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
VERSION, PACKAGES = @VERSION@, @PACKAGES@
PYTHON = "%d.%d.%d" % sys.version_info[:3]


def fail(text):
    sys.exit("\\n" + text)


def log(words):
    with open(os.path.join(ROOT, "asked.jsonl"), "a") as file:
        env = {name: os.environ.get(name) for name in ("CONDA_PKGS_DIRS", "PYTHONPATH")}
        file.write(json.dumps({"words": words, "env": env}) + "\\n")


def find(spec, channels):
    match = re.match(r"(?:[^:]*::)?([A-Za-z0-9._-]+?)\\s*(?:[=<>! ].*)?$", spec)
    name = match.group(1).lower()
    wanted = spec.rpartition("::")[2][len(name):].strip()
    has = {"python": PYTHON, "pip": "25.0", **PACKAGES}.get(name) if "conda-forge" in channels else None
    exact = re.match(r"==?\\s*([0-9.]+?)(?:\\.\\*)?$", wanted)
    if has and exact and not (has + ".").startswith(exact.group(1) + "."):
        has = None
    return name, has


def create(args):
    if not args.yes:
        fail("EOFError: Proceed ([y]/n)?")  # nobody answers
    if args.offline and not os.path.isdir(os.path.join(ROOT, "pkgs")):
        fail("PackagesNotFoundError: the package cache is empty")
    channels = args.channel if args.override_channels else [*(args.channel or []), "defaults"]
    if any(channel in ("defaults", "main") for channel in channels):
        fail(
            "CondaToSNonInteractiveError: Terms of Service have not been accepted for the following "
            "channels. Please accept or remove them before proceeding:\\n    - https://repo.anaconda.com/pkgs/main"
        )
    prefix = os.path.abspath(args.prefix)
    if os.path.isdir(prefix) and os.listdir(prefix):
        if os.path.isdir(os.path.join(prefix, "conda-meta")):
            shutil.rmtree(prefix)
        elif NAME == "micromamba":
            fail("error    libmamba Non-conda folder exists at prefix - aborting.")
    print("Collecting package metadata (repodata.json): done", flush=True)
    found = [find(spec, channels) for spec in args.specs]
    missing = [spec for spec, (_, version) in zip(args.specs, found) if version is None]
    if missing:
        fail(
            "PackagesNotFoundInChannelsError: The following packages are not available from current "
            "channels:\\n\\n"
            + "".join("  - %s\\n" % spec for spec in missing)
            + "\\nCurrent channels:\\n\\n" + "".join("  - %s\\n" % channel for channel in channels)
        )
    print("Solving environment: done", flush=True)
    if any(name == "python" for name, _ in found):
        venv.EnvBuilder(symlinks=True).create(prefix)
        if any(name == "pip" for name, _ in found):
            add_pip(prefix)
    meta = os.path.join(prefix, "conda-meta")
    os.makedirs(meta)
    for name, version in found:
        with open(os.path.join(meta, "%s-%s-h0_0.json" % (name, version)), "w") as file:
            json.dump({"name": name, "version": version, "channel": "conda-forge"}, file)
    with open(os.path.join(meta, "history"), "w") as file:
        file.write("# cmd: conda create\\n")
    print("Executing transaction: done")


def add_pip(prefix):
    """The machine's own pip is copied: quicker than ensurepip, which Debian parts from python3."""
    import pip

    [site] = glob.glob(os.path.join(prefix, "lib", "python3*", "site-packages"))
    shutil.copytree(os.path.dirname(pip.__file__), os.path.join(site, "pip"))


def main():
    parser = argparse.ArgumentParser(prog=NAME)
    parser.add_argument("--version", action="version", version="%s %s" % (NAME, VERSION))
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("create")
    command.add_argument("-y", "--yes", action="store_true")
    command.add_argument("-p", "--prefix", required=True)
    command.add_argument("-c", "--channel", action="append")
    command.add_argument("--override-channels", action="store_true")
    command.add_argument("--offline", action="store_true")
    command.add_argument("specs", nargs="*")
    args = parser.parse_args()
    log(sys.argv[1:])
    create(args)


main()
'''

_INSTALLER = """\
#!/bin/sh
# NAME:  a stand-in for Miniforge3 (tests of remote_launch)
# VER:   @VERSION@
prefix=; batch=
while getopts "bp:" option; do
  case $option in
    b) batch=1 ;;
    p) prefix=$OPTARG ;;
    *) exit 2 ;;
  esac
done
[ -n "$batch" ] || { echo "Please answer 'yes' or 'no':"; read -r _ || exit 2; }
[ -n "$prefix" ] || { echo "ERROR: no prefix" >&2; exit 2; }
case $prefix in *" "*) echo "ERROR: Cannot install into directories with spaces" >&2; exit 1 ;; esac
if [ -e "$prefix" ]; then
  echo "ERROR: File or directory already exists: '$prefix'" >&2
  exit 1
fi
echo "PREFIX=$prefix"
echo "Unpacking payload ..."
mkdir -p "$prefix/bin" "$prefix/pkgs"
echo "$$" >> "$HOME/installed"
if [ -e "$HOME/installer-hangs" ]; then
  : > "$HOME/installer-is-at-it"
  while [ -e "$HOME/installer-hangs" ]; do sleep 0.05; done
fi
{ echo "#!$(command -v python3)"; sed -n '/^# conda begins$/,/^# conda ends$/p' "$0"; } > "$prefix/bin/conda"
chmod 755 "$prefix/bin/conda"
if [ -e "$HOME/installer-fails" ]; then
  echo "ERROR: could not extract tar starting at offset" >&2
  exit 1
fi
echo "installation finished."
exit 0
"""


def write_installer(path: Path, *, payload_bytes: int = 200_000) -> Path:
    """Write an installer. In the home folder it is run in, ``installer-fails`` makes it fail half way,
    ``installer-hangs`` wait for that file's end; ``installed`` has a line for each run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _INSTALLER.replace("@VERSION@", VERSION)
    text += f"# conda begins\n{conda_program()}# conda ends\n@@END_HEADER@@\n"
    path.write_bytes(text.encode() + os.urandom(payload_bytes))
    return path


def write_conda(path: Path) -> Path:
    """Write a conda that is there already, or, by the path's name, a micromamba."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{conda_program()}")
    path.chmod(0o755)
    return path


def conda_program() -> str:
    """Return the source of the stand-in."""
    return _CONDA.replace("@VERSION@", repr(VERSION)).replace("@PACKAGES@", repr(PACKAGES))
