"""What uv and pip print when they fail, as one plain error: a conflict, no wheel, no such package, no
network."""

from __future__ import annotations

import re

from remote_launch.errors import CommandError, last_lines
from remote_launch.transport.command import mask_urls

NETWORK = re.compile(
    r"error sending request|client error \(Connect\)|NewConnectionError|ConnectTimeoutError|"
    r"Connection (?:refused|reset|broken)|Temporary failure in name resolution|Network is unreachable|"
    r"Failed to establish a new connection|dns error|Max retries exceeded|ReadTimeoutError|"
    r"operation timed out",
    re.IGNORECASE,
)
_LOGIN = re.compile(
    r"\b(?:401|403)\b.{0,40}(?:Unauthorized|Forbidden|error)|(?:Unauthorized|Forbidden) for url",
    re.IGNORECASE,
)
_NO_WHEEL = re.compile(
    r"([A-Za-z0-9][\w.\-]*)(?:\[[^\]]*\])?(?:[=<>!~]=?=?\S+)? "
    r"(?:has no (?:usable )?wheels|have no (?:usable )?wheels|is not a supported wheel)"
)
_NO_PACKAGE = re.compile(r"([A-Za-z0-9][\w.\-]*) was not found in the (?:package registry|provided package)")
_NO_VERSION = re.compile(r"there (?:is no version|are no versions) of ([A-Za-z0-9]\S*) and you require")
NO_MATCH = re.compile(r"No matching distribution found for ([^\s;]+)")
_UNSATISFIABLE = re.compile(r"requirements are unsatisfiable|ResolutionImpossible|conflicting dependencies")
_BUILD = re.compile(
    r"Failed to build (?:`|')?([A-Za-z0-9][\w.\-]*)|Failed to (?:download and )?build|"
    r"metadata-generation-failed|subprocess-exited-with-error", re.IGNORECASE
)
_HASHES = re.compile(r"DO NOT MATCH THE HASHES|require-hashes mode|Hash mismatch", re.IGNORECASE)
_CONFLICT_LINES = 12
INSTALL_UV = "pip install uv (on this machine): it chooses packages for a server of another kind"


def network_failed(output: str) -> bool:
    """True when the output speaks of a connection that failed."""
    return bool(NETWORK.search(output)) and not _UNSATISFIABLE.search(output)


def failure(output: str, exit_code: int, command: str, platform: str) -> CommandError:
    """Given the output of a resolver or a download, return the error to raise."""
    output = mask_urls(output)
    # uv breaks its sentences into lines, where is a matter of the names in them.
    whole = re.sub(r"\n[ \t]+", " ", output)
    message, hint = _explained(whole, platform, f"{command} ended with exit code {exit_code}")
    lines = last_lines(_without_warnings(output), _CONFLICT_LINES)
    return CommandError(
        f"{message}\n{lines}" if lines else message,
        command=command,
        exit_code_of_command=exit_code,
        tail=last_lines(output),
        hint=hint,
    )


def _explained(output: str, platform: str, otherwise: str) -> tuple[str, str]:
    if "No space left on device" in output:
        return "this machine's disk is full", "make room in ~/.cache and in /tmp"
    if network_failed(output):
        return (
            "the package index can't be reached from this machine",
            "see this machine's connection, and environment.index_url (or PIP_INDEX_URL)",
        )
    if _LOGIN.search(output):
        return "the package index refused the login", "see environment.index_url (or PIP_INDEX_URL)"
    if _HASHES.search(output):
        return (
            "a package is not the one that the requirements name by its hash",
            "make the lock file anew, with hashes of the wheels for every platform of the servers",
        )
    if found := _NO_PACKAGE.search(output):
        return (
            f"no package {found[1]} in the indexes that this machine asks",
            "check the name, and environment.index_url, extra_index_url and find_links",
        )
    if found := _NO_VERSION.search(output):
        return (
            f"no version {found[1]} in the indexes that this machine asks, for {platform}",
            "check the number, and environment.index_url, extra_index_url and find_links",
        )
    if found := _NO_WHEEL.search(output):
        return no_wheel_text(found[1], platform)
    if found := NO_MATCH.search(output):
        return no_wheel_text(found[1], platform)
    if found := _BUILD.search(output):
        what = found[1] or "a package"
        return (
            f"{what} has no wheel for {platform}, and its source can't be built on this machine",
            f"pin a version of {what} that has one, or leave it out",
        )
    if _UNSATISFIABLE.search(output):
        return "the requirements can't be met together", "see the last lines: loosen one of them"
    return otherwise, "the last lines say why"


def no_wheel_text(requirement: str, platform: str) -> tuple[str, str]:
    """Return the message and the hint for a package that the server's platform has no wheel of."""
    name = re.split(r"[=<>!~\[]", requirement)[0]
    return (
        f"no wheel of {requirement} for {platform}",
        f"choose another version of {name}, another Python for that server, or an index that has its wheels",
    )


def no_wheel(requirement: str, platform: str, why: str = "", tail: str = "") -> CommandError:
    """Return the error for one package without a wheel."""
    message, hint = no_wheel_text(requirement, platform)
    return CommandError(f"{message}{why}", tail=mask_urls(tail), hint=hint)


def _without_warnings(output: str) -> str:
    noise = ("warning:", "deprecation:")
    return "\n".join(line for line in output.splitlines() if not line.lower().startswith(noise))
