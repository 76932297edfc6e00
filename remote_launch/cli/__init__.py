"""The command line."""

from __future__ import annotations

import gc

# Most objects of a command are made by its imports: to look for cycles after each 700 would take 5 ms.
gc.set_threshold(50_000)
