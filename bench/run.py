"""``python -m bench.run …``: the same as ``python -m bench run …``."""

import sys
from collections.abc import Sequence

from bench.cli import main as cli
from bench.core.host import environment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``run`` with ``argv`` and return its exit status."""
    with environment(**(cli.HEADLESS if argv is None else {})):
        return cli.main(["run", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
