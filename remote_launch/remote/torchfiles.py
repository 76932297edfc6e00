"""What an environment's torch was built for, by its files, and what the NVIDIA driver can run. When asked,
what torch itself says once it is imported."""

from __future__ import annotations

import ctypes
import glob
import json
import os
import re
import subprocess

from . import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERSION = re.compile(r"\s(\d+\.\d[\d.]*)\s")
_IMPORT = """
import json, time
began = time.monotonic()
import torch
import torch.distributed as dist
told = {"torch": torch.__version__, "seconds": time.monotonic() - began, "cuda": torch.version.cuda}
told["cards"] = torch.cuda.device_count()
told["gloo"] = dist.is_available() and dist.is_gloo_available()
told["nccl"] = None
try:
    if dist.is_available() and dist.is_nccl_available():
        told["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
except Exception:
    pass
told["why"] = None
if torch.version.cuda or torch.version.hip:
    try:
        torch.zeros(1).cuda()
    except Exception as error:
        told["why"] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
print(json.dumps(told))
"""


def build(python: Any) -> dict[str, Any]:
    """Given an interpreter, return {"torch", "cuda", "hip", "nccl"} by its files; None for what it hasn't,
    and for what they don't tell."""
    found: dict[str, Any] = {"torch": None, "cuda": None, "hip": None, "nccl": None}
    path = environment.interpreter(python)
    if path is None:
        return found
    folders = environment.library(path)[1]
    for folder in folders:
        content = _read(os.path.join(folder, "torch", "version.py"))
        if content:
            for name, key in (("__version__", "torch"), ("cuda", "cuda"), ("hip", "hip")):
                found[key] = environment.assigned(content, name)
            break
    found["nccl"] = _nccl(folders, os.path.dirname(os.path.dirname(path)))
    return found


def _nccl(folders: list[str], prefix: str) -> str | None:
    for folder in folders:
        for info in glob.glob(os.path.join(glob.escape(folder), "nvidia_nccl_cu*-*.dist-info")):
            return os.path.basename(info)[:-len(".dist-info")].split("-")[1]
    for info in glob.glob(os.path.join(glob.escape(prefix), "conda-meta", "nccl-*.json")):
        return os.path.basename(info).split("-")[1]
    return None


def nvidia_driver() -> dict[str, Any]:
    """Return {"version": "535.54.03", "cuda": "12.2"}, the newest CUDA that it runs; None where there is
    none."""
    told = _VERSION.search(_read("/proc/driver/nvidia/version").partition("\n")[0])
    number = ctypes.c_int(0)
    cuda = None
    try:
        # No card is touched by this: it says what the library was made for.
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value:
            cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
    except (OSError, AttributeError):
        pass
    return {"version": told.group(1) if told else None, "cuda": cuda}


def imported(request: dict[str, Any], root: str, timeout_s: float) -> dict[str, Any]:
    """Import torch in the environment; return what it says of itself, or {"error": its last line}."""
    path = environment.interpreter(request.get("python"))
    if path is None:
        return {"error": "there is no interpreter"}
    given = request.get("env")
    env = {str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {}
    try:
        done = subprocess.run(
            [path, "-c", _IMPORT], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=timeout_s, check=False, env={**os.environ, **env},
            cwd=root if os.path.isdir(root) else "/",
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took longer than {timeout_s:.0f} s"}
    except OSError as error:
        return {"error": str(error.strerror or error)}
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        told = json.loads(lines[-1]) if done.returncode == 0 and lines else None
    except ValueError:
        told = None
    if isinstance(told, dict):
        return told
    said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return {"error": said[-1][:500] if said else f"exit code {done.returncode}"}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""
