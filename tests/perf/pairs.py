"""Two pieces of work timed in turns, so that what else a machine does meets both alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Work = Callable[[], object]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def cpu_seconds(work: Work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@dataclass
class Pair:
    """CPU seconds of ``work`` and of ``reference``, round by round; every other round the other goes first."""

    work: Work
    reference: Work
    rounds: list[tuple[float, float]] = field(default_factory=list)

    def round(self) -> None:
        if len(self.rounds) % 2:
            of_reference, of_work = cpu_seconds(self.reference), cpu_seconds(self.work)
        else:
            of_work, of_reference = cpu_seconds(self.work), cpu_seconds(self.reference)
        self.rounds.append((of_work, of_reference))

    @property
    def ratio(self) -> float:
        """The median over rounds of work / reference."""
        return statistics.median(work / reference for work, reference in self.rounds)

    def again(self, rounds: int) -> float:
        """The ratio of so many new rounds."""
        self.rounds.clear()
        with no_garbage_collection():
            for _ in range(rounds):
                self.round()
        return self.ratio
