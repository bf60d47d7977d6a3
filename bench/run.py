"""python -m bench.run: plan, prepare data, train what is missing, report (see ``bench/cli/run.py``)."""

import sys

from bench.cli.run import main

if __name__ == "__main__":
    sys.exit(main())
