"""Print a line a second for a minute: something to list, tail and kill. Needs nothing but Python.

    rl job-run --server local-1 -- python hello.py
"""

from __future__ import annotations

import argparse
import os
import platform
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds

    rank = os.environ.get("RANK", "0")
    print(f"hello from rank {rank} on {platform.node()}, LR={os.environ.get('LR', 'not set')}", flush=True)
    for second in range(1, seconds + 1):
        time.sleep(1)
        print(f"{second} of {seconds}", flush=True)  # unflushed lines wait in a buffer unless on a terminal
    print("done", flush=True)


if __name__ == "__main__":
    main()
