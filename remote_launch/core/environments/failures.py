"""What pip and uv say when they fail, and what to do next: the words are theirs, seen of pip 23 to 26 and
uv 0.13."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remote_launch.core.environments.steps import Hints

_BUILD = ("metadata-generation-failed", "subprocess-exited-with-error", "Failed building", "Failed to build")
# pip tries on, and then says that there is no such package.
_UNREACHABLE = ("Failed to establish a new connection", "error sending request for url", "ConnectTimeout")


def install_hints(file: str, *, offline: bool, project: bool = False) -> Hints:
    """Given the file that a step installs from, return what its output means; the particular first.
    ``project``: the step installs the project itself."""
    conflict = f"the requirements of {file} conflict: see the last lines"
    mixed = f"{file} has hashes for some packages only: pip wants them for all, or for none"
    # pip says nothing of an index that refused its login.
    unknown = f"no such package: check its name in {file}, and that the index has it (index_url, its login)"
    version = f"no such version for that server's Python and platform: see {file}, and environment.python"
    platform = f"no wheel for that server's platform or Python: see {file}, and environment.python"
    build = f"no wheel fits, and it can't be built there: another version in {file}, or another Python"
    if project:
        build = "the project can't be built there: see the last lines; install_project: false leaves it out"
    changed = f"an index has another file than {file} names: find out why; if that is right, lock anew"
    missing = f"what was sent for offline: true lacks a package of {file}: rl prepare --force sends it anew"
    login = "the index wants another login: index_url or extra_index_url may hold one (https://user:token@…)"
    certificate = (
        "the server doesn't trust the index's certificate: env: names its own (SSL_CERT_FILE; pip: PIP_CERT)"
    )
    broken = (
        "the download broke off each time: rl prepare again, or with offline: true, so that this machine"
        " downloads; a proxy goes into env: (HTTPS_PROXY), a mirror is index_url"
    )
    malformed = f"a line of {file} is no requirement: correct it (as torch>=2.2), then rl prepare again"
    cut_off = "the connection broke off: attempt"  # rl's own words
    reach = (
        "the server can't reach the package index: offline: true has this machine download; a proxy goes into"
        " env: (HTTPS_PROXY), a mirror is index_url"
    )
    absent = ((missing, "No matching distribution"), (missing, "No solution found"), (missing, "the cache"))
    rows = (
        *(absent if offline else ((broken, cut_off),)),
        (changed, "DO NOT MATCH THE HASHES"),
        (changed, "Hash mismatch"),
        (mixed, "In --require-hashes mode"),
        (malformed, "Invalid requirement: "),
        (malformed, "Couldn't parse requirement"),
        (login, "401 Error"),
        (login, "401 Client Error"),
        (login, "403 Client Error"),
        (login, "401 Unauthorized"),
        (login, "403 Forbidden"),
        (certificate, "CERTIFICATE_VERIFY_FAILED"),
        (certificate, "invalid peer certificate"),
        *((reach, words) for words in _UNREACHABLE),
        (platform, "no wheels with a matching"),
        (platform, "is not a supported wheel on this platform"),
        (unknown, "was not found in the package registry"),
        (unknown, "was not found in the provided package locations"),
        (unknown, "(from versions: none)"),
        (version, "requires a different Python"),
        (version, "incompatible with the project's Python requirement"),
        (version, "there is no version of"),
        (version, "there are no versions of"),
        (version, "No matching distribution"),
        (conflict, "ResolutionImpossible"),
        (conflict, "No solution found"),
        *((build, words) for words in _BUILD),
        (
            "that Python belongs to the system: manager: venv or uv makes an environment of its own",
            "externally-managed",
        ),
        ("that Python has no pip: -m ensurepip brings one; manager: uv needs none", "No module named pip"),
        (f"{file} was written by a newer uv: update uv on the server", "unsupported schema version"),
        (f"{file} can't be read by uv: write it anew: uv lock", "Failed to parse `uv.lock`"),
        (f"an old uv on the server can't read {file}: update it there", "unexpected argument"),
    )
    return tuple((words, hint) for hint, words in rows)
