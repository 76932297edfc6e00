"""A real all-reduce between the servers, run by the environment's own python: one rank on each.

Prints lines of JSON: {"step": …} as each begins (import, meet, reduce), then what came of it. Ends when its
time is up, and when nobody reads its stdout any more.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IMPORT_LIMIT_S = 60  # seconds on a quiet machine; from a busy network disk far longer
SMALL, LARGE = 1 << 14, 1 << 20  # numbers of 4 bytes
SLOW_S = 0.05  # a network that takes this long for the small one is not asked for the large one
_ROUNDS = 3


def main() -> int:
    """Given {"backend", "address", "port", "rank", "world_size", "limit_s"} on stdin, meet the others and add
    up; return the process's exit code."""
    from .reach import end_when_unread
    from .request import read_request

    archive = os.path.dirname(os.path.dirname(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.abspath(archive)]
    request = read_request()
    threading.Thread(target=end_when_unread, daemon=True).start()
    # Torch waits in C, where no Python code runs: the signal's own action ends the process all the same.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(IMPORT_LIMIT_S)
    try:
        say(step="import")
        started = time.monotonic()
        result = _reduce(request, started)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is to read it
        say(error=f"{type(error).__name__}: {error}"[:4000])
        return 1
    say(**result)
    sys.stdout.flush()
    # Threads of torch may hold up an orderly end, and what they know is said.
    os._exit(0 if result["right"] else 1)


def _reduce(request: dict[str, Any], started: float) -> dict[str, Any]:
    from datetime import timedelta

    import torch  # type: ignore[import-not-found, unused-ignore]
    import torch.distributed as dist  # type: ignore[import-not-found, unused-ignore]

    imported = time.monotonic()
    limit_s = float(request["limit_s"])
    signal.alarm(int(limit_s) + 2)
    say(step="meet", import_s=round(imported - started, 3), torch=str(torch.__version__))
    rank, world_size = int(request["rank"]), int(request["world_size"])
    uses_gpu = request["backend"] == "nccl"
    if uses_gpu and not (torch.cuda.is_available() and dist.is_nccl_available()):
        raise RuntimeError("torch can't use the cards here")
    device = torch.device("cuda", 0) if uses_gpu else torch.device("cpu")
    host = f"[{request['address']}]" if ":" in request["address"] else request["address"]
    dist.init_process_group(
        request["backend"], init_method=f"tcp://{host}:{request['port']}", rank=rank, world_size=world_size,
        timeout=timedelta(seconds=limit_s),
    )

    def add_up(count: int) -> tuple[float, float]:
        values = torch.full((count,), float(rank + 1), device=device)
        if uses_gpu:
            torch.cuda.synchronize()
        begun = time.monotonic()
        dist.all_reduce(values)
        if uses_gpu:
            torch.cuda.synchronize()
        took_s = time.monotonic() - begun
        return took_s, float((values - world_size * (world_size + 1) / 2).abs().max())

    say(step="reduce", meet_s=round(time.monotonic() - imported, 3))
    _, wrong = add_up(1)  # the connections are made here
    took_s, wrong_small = add_up(SMALL)
    size = torch.tensor([LARGE if took_s < SLOW_S else SMALL], device=device)
    dist.broadcast(size, 0)  # all must do the same
    count = int(size.item())
    rounds = [add_up(count) for _ in range(_ROUNDS if count == LARGE else 1)]
    best_s = min(took for took, _ in rounds)
    off = max(wrong, wrong_small, *(one for _, one in rounds))
    dist.barrier()
    return {"right": off == 0.0, "off": off, "bytes": count * 4, "seconds": round(best_s, 6)}


def say(**message: Any) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
