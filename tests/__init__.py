"""Tests. One thread and no display, set before torch and matplotlib are imported."""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg"}
