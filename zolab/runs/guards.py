"""Steps that do nothing: counted from a run's log, told in one line, and a run that takes no others is stopped with advice.

- **flat**: the losses on both sides of the weights are equal, so that the slope is exactly 0 and nothing is learned.
- **overflowed**: a loss, or the step, is no finite number. The weights are as before it, and the next batch takes its place.
- **short**: less than half of the step arrives in weights of half precision, measured now and then (`zolab.optim.arrival`).
"""

from collections.abc import Callable
from typing import Any

from zolab.optim.changes import LEAST
from zolab.records.log import RunLog
from zolab.records.shapes import NUMBER
from zolab.runs.objectives import flat

ARRIVED = {"share": NUMBER, "moved": NUMBER}
OVERFLOW = {"step": int, "error": str}
COUNTS = {**dict.fromkeys(("flat", "overflowed", "measured", "short"), int), "arrived": (*NUMBER, type(None))}


class Guards:
    """What the steps of a run did.

    Args:
        log: of the run, whose events are counted, and to which new ones are added.
        stuck: steps in a row that may do nothing; 0 for any number, and then no loss may overflow.
        ties: whether equal losses are to be expected, as a metric's are; they are only counted then.
    """

    def __init__(self, log: RunLog, stuck: int = 0, ties: bool = False):
        self.log, self.stuck, self.ties = log, stuck, ties
        self.flat = self.overflowed = self.short = 0
        self.shares: list[float] = []
        self._flat = self._overflowed = self._short = 0  # steps in a row, up to now
        self._short_since: int | None = None
        self._error = ""
        for event in log.events:
            self._see(event)

    def stepped(self, step: int, take: Callable[[int], float]) -> float:
        """The loss of a step, which is taken on the next batch where it overflows.

        Args:
            step: its number.
            take: takes it on the batch of a number, and leaves the weights alone if it raises FloatingPointError.

        Raises:
            FloatingPointError: so many steps in a row did nothing that the run has to stop.
        """
        self.check()
        while True:
            try:
                return take(step + self.overflowed)
            except FloatingPointError as error:
                if not self.stuck:
                    raise
                self._note("overflow", step=step, error=str(error))
            self.check()

    def took(self, loss: float, optimizer: Any) -> None:
        """Note in the log the step that an optimizer took.

        Args:
            loss: that it returned.
            optimizer: whose last record it is, and whose `arrived`.
        """
        arrived = {} if optimizer.arrived is None else {"arrived": optimizer.arrived._asdict()}
        self._note("step", loss=loss, **optimizer.trajectory.records[-1]._asdict(), **arrived)

    def _note(self, event: str, **fields: Any) -> None:
        self.log.append(event, **fields)
        self._see({"event": event, **fields})

    def _see(self, event: dict[str, Any]) -> None:
        if event["event"] == "overflow":
            self.overflowed += 1
            self._overflowed, self._error = self._overflowed + 1, event["error"]
        if event["event"] != "step":
            return
        equal = flat([event])
        self.flat += equal
        self._flat, self._overflowed = self._flat + 1 if equal else 0, 0
        if "arrived" in event:
            self.shares.append(event["arrived"]["share"])
            self._see_share(event["step"], short=self.shares[-1] < LEAST)

    def _see_share(self, step: int, short: bool) -> None:
        self.short += short
        first = step if self._short_since is None else self._short_since
        self._short_since, self._short = (first, step - first) if short else (None, 0)

    def check(self) -> None:
        """Raise FloatingPointError, with advice, if too many steps in a row did nothing."""
        if not self.stuck:
            return
        if self._overflowed >= self.stuck:
            raise FloatingPointError(
                f"{self._error} {self._overflowed} batches in a row were so: lower lr or eps, or choose a dtype that holds "
                "larger numbers, bfloat16 or float32."
            )
        stopped = f"{self.stuck} steps in a row, and the run is stopped"
        if self._flat >= self.stuck and not self.ties:
            raise FloatingPointError(
                f"the losses on both sides were equal in {stopped}: raise eps, or choose a dtype with finer numbers, float32."
            )
        if self._short >= self.stuck:
            last = 100 * max(self.shares[-1], 0)
            raise FloatingPointError(
                f"less than half of a step arrived in the weights in {stopped}, {last:.0f} % of the last one: use optim_args "
                "rounding='stochastic', raise lr, or train in float32."
            )

    def counts(self) -> dict[str, Any]:
        """For the run's record: numbers of steps, and `arrived`, the mean share over the `measured` ones."""
        mean = sum(self.shares) / len(self.shares) if self.shares else None
        numbers = {"flat": self.flat, "overflowed": self.overflowed, "measured": len(self.shares), "short": self.short}
        return {**numbers, "arrived": mean}


def guard_summary(record: dict[str, Any]) -> str:
    """One line on the steps of a run's record that did nothing; empty if there are none, or it is older than the counts."""
    counts, parts = record.get("guards", {}), []
    if equal := counts.get("flat"):
        silent = f"{equal} steps measured the same {record['config'].get('objective', 'loss')} on both sides"
        parts.append(f"{silent}, which says nothing about where to go: raise eps or batch_size")
    if passed := counts.get("overflowed"):
        parts.append(f"{passed} batches were passed over, whose loss was not finite: lower lr, or choose a wider dtype")
    if short := counts.get("short"):
        often = f"of {counts['measured']} steps that were measured, {short} arrived in the weights by less than half"
        parts.append(f"{often}, on average by {100 * counts['arrived']:.0f} %: use rounding='stochastic'")
    return "; ".join(parts)
