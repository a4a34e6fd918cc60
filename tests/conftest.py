"""Tests run side by side, so each process keeps to one thread; torch reads this when it is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
