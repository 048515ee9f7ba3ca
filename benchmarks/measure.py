"""How everything here is measured: in rounds, side by side, on files of their own."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import NamedTuple, TypeAlias

import msgspec
import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / ".bench"
"""On the disk under the checkout, because /tmp may be memory, where an fsync costs nothing."""

ROUNDS = 3
ROUNDS_LONG = 5

STOLEN_MAX = 0.05
"""Share of the processors' time beyond which a round is run again: who needs both processors
suffers more from that than who needs one, and their ratio is then the neighbours'."""

AGAIN_MAX = 4
"""Rounds run again at most."""


class Size(NamedTuple):
    """Attributes:
    seconds: How long a system is loaded in one round.
    stored: Events in the store that a server starts on.
    projected: Events that a projector goes through.
    rebuilt: Events of which a read model is made anew.
    grown: Events in the log that is appended to, against one with a few thousand.
    """

    rounds: int
    seconds: float
    stored: int
    projected: int
    rebuilt: int
    grown: int


QUICK = Size(
    rounds=ROUNDS, seconds=1.0, stored=20_000, projected=10_000, rebuilt=20_000, grown=200_000
)
LONG = Size(
    rounds=ROUNDS_LONG,
    seconds=4.0,
    stored=1_000_000,
    projected=200_000,
    rebuilt=1_000_000,
    grown=5_000_000,
)


class Sample(NamedTuple):
    """One system in one round.

    Attributes:
        cpu_us: User and system time of the process under load, per operation.
        p50_ms, p99_ms: Of single operations, where they were timed.
    """

    per_s: float
    cpu_us: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0


System: TypeAlias = Callable[[Path], Sample]
"""Runs once in an empty folder."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table.

    Attributes:
        ratio: Above 1 when ours is better, whatever the unit.
        met: None where there is no target.
    """

    what: str
    ours: str
    peer: str
    ratio: float | None
    target: str = ""
    met: bool | None = None
    cpu: str = ""


class Rounds:
    """What each system showed, round by round.

    A ratio is taken inside each round and only then the median: what slows
    the machine for a while slows both sides of it.
    """

    def __init__(self, samples: Mapping[str, list[Sample]]) -> None:
        self._samples = samples

    def middle(self, name: str) -> Sample:
        return Sample(*(median(column) for column in zip(*self._samples[name], strict=True)))

    def ratio(self, ours: str, peer: str) -> float:
        pairs = zip(self._samples[ours], self._samples[peer], strict=True)
        return median(a.per_s / b.per_s for a, b in pairs)

    def row(self, what: str, ours: str, peer: str, *, target: float | None = None) -> Row:
        """Compare two rates."""
        ratio, mine, other = self.ratio(ours, peer), self.middle(ours), self.middle(peer)
        return Row(
            what=what,
            ours=rate(mine.per_s),
            peer=f"{rate(other.per_s)}  {peer}",
            ratio=ratio,
            target="" if target is None else f">= {target:,g}x",
            met=None if target is None else ratio >= target,
            cpu=f"{mine.cpu_us:,.0f} / {other.cpu_us:,.0f}",
        )


def alternate(rounds: int, systems: Mapping[str, System]) -> Rounds:
    """Run every system once per round, each time in a fresh folder, forwards then backwards.

    Rounds that the hypervisor took processors away from are run again, and those kept that it
    took the least from: chosen by what it took, whatever they showed.
    """
    found: list[tuple[float, dict[str, Sample]]] = []
    while len(found) < rounds + AGAIN_MAX:
        stolen = StolenTime()
        samples = _round(systems, backwards=len(found) % 2 == 1)
        found.append((stolen.share(), samples))
        if sum(share <= STOLEN_MAX for share, _ in found) == rounds:
            break
    kept = sorted(found, key=lambda each: each[0])[:rounds]
    return Rounds({name: [samples[name] for _, samples in kept] for name in systems})


def _round(systems: Mapping[str, System], *, backwards: bool) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for name in list(systems)[:: -1 if backwards else 1]:
        with scratch() as folder:
            samples[name] = systems[name](folder)
    return samples


class StolenTime:
    """What a hypervisor has taken from this machine since this was made."""

    def __init__(self) -> None:
        self._began, self._stolen = perf_counter(), _stolen_s()

    def share(self) -> float:
        """Tell it as a share of all processors' time; 0 where the system does not count it."""
        wall = perf_counter() - self._began
        return (_stolen_s() - self._stolen) / (wall * (psutil.cpu_count() or 1))


def _stolen_s() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


@contextmanager
def scratch() -> Iterator[Path]:
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        yield Path(folder)


class Timer:
    """Wall and processor time of this process since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu = perf_counter(), process_time()

    def sample(self, count: int) -> Sample:
        wall, cpu = perf_counter() - self._began, process_time() - self._cpu
        return Sample(count / wall, cpu / count * 1e6)


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """Tell p50 and p99 in milliseconds."""
    hundredths = quantiles(seconds, n=100)
    return hundredths[49] * 1e3, hundredths[98] * 1e3


def rate(per_s: float) -> str:
    return f"{per_s:,.0f} /s" if per_s >= 100 else f"{per_s:,.1f} /s"
