"""What the launch benchmark starts on every rank: writes down when it began. Standard library only."""

import os
import time

started = time.time()
path = f"{os.environ['BENCH_OUT']}/{os.environ['RANK']}"
with open(path + ".tmp", "w") as file:
    file.write(repr(started))
os.replace(path + ".tmp", path)
