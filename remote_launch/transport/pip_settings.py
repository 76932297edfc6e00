"""What pip is told about where packages are, and the same for uv, which reads none of pip's settings.

Everything goes through the environment: index URLs may have a login in them, and argv is seen by all."""

from __future__ import annotations

import ast
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# pip's option, its variable, and whether several values add up.
_INDEX_OPTIONS = {
    "--index-url": ("PIP_INDEX_URL", False),
    "-i": ("PIP_INDEX_URL", False),
    "--pypi-url": ("PIP_INDEX_URL", False),
    "--extra-index-url": ("PIP_EXTRA_INDEX_URL", True),
    "--find-links": ("PIP_FIND_LINKS", True),
    "-f": ("PIP_FIND_LINKS", True),
    "--trusted-host": ("PIP_TRUSTED_HOST", True),
    "--cert": ("PIP_CERT", False),
    "--client-cert": ("PIP_CLIENT_CERT", False),
    "--timeout": ("PIP_DEFAULT_TIMEOUT", False),
    "--retries": ("PIP_RETRIES", False),
}
_BOTH = {"--constraint": True, "-c": True, "--pre": False}  # option: takes a value
_UV_ONLY = {
    "--index-strategy": True, "--prerelease": True, "--torch-backend": True, "--resolution": True,
    "--exclude-newer": True, "--no-deps": False, "--no-sources": False, "--override": True,
}  # fmt: skip
_UV_NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
}
_SECTIONS = (":env:", "download", "install", "global")  # the first that says something wins, as in pip


def split_arguments(words: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Given arguments meant for ``pip install`` or ``uv pip install``, return what matters to a download:
    variables, words for uv's resolver, words for pip. What concerns the installation is left out."""
    env: dict[str, str] = {}
    for_uv: list[str] = []
    for_pip: list[str] = []
    left = list(words)
    while left:
        option, equals, value = left.pop(0).partition("=")
        if option == "--no-index":
            env["PIP_NO_INDEX"] = "1"
            continue
        takes_value = _INDEX_OPTIONS.get(option, ("", False))[0] or _BOTH.get(option) or _UV_ONLY.get(option)
        if takes_value and not equals:
            value = left.pop(0) if left else ""
        if option in _INDEX_OPTIONS:
            name, adds_up = _INDEX_OPTIONS[option]
            env[name] = f"{env[name]} {value}" if adds_up and name in env else value
        elif option in _BOTH or option in _UV_ONLY:
            given = [option, value] if takes_value else [option]
            for_uv += given
            for_pip += given if option in _BOTH and option == "--pre" else []  # versions are settled by then
    return env, for_uv, for_pip


def pip_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that pip runs with."""
    return {
        **env,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }


def uv_environment(env: Mapping[str, str], listed: str) -> dict[str, str]:
    """Given the wanted variables and what ``pip config list`` says with them set, return the variables that
    make uv look where pip looks. What the user set for uv itself is left alone."""
    settings = pip_settings(listed)
    found = {}
    for key, (name, separator) in _UV_NAMES.items():
        words = settings.get(key, [])
        by_caller = "PIP_" + key.upper().replace("-", "_") in env
        if words and (by_caller or name not in os.environ):
            found[name] = separator.join(words)
    if "UV_INDEX" in found and "UV_INDEX_STRATEGY" not in os.environ:
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip chooses
    found |= {name: value for name, value in env.items() if name.startswith("UV_")}
    return {**env, **found, "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}


def without_index(listed: str) -> bool:
    """Given what ``pip config list`` says, return whether pip asks no index. uv has no variable for that."""
    words = pip_settings(listed).get("no-index", [])
    return bool(words) and words[0].lower() not in ("0", "false", "no", "off", "n", "f")


def pip_settings(listed: str) -> dict[str, list[str]]:
    """Given what ``pip config list`` says, return the words of each setting that pip goes by."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in listed.splitlines():
        name, equals, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if not equals or section not in _SECTIONS:
            continue
        try:
            text = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            text = value
        found.setdefault(key.replace("_", "-"), {})[section] = str(text).split()
    return {
        key: next(values[section] for section in _SECTIONS if section in values)
        for key, values in found.items()
    }
