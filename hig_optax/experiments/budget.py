"""How long a run lasts, and how many steps it takes between two looks at it."""

from dataclasses import dataclass

SEGMENT_SECONDS = 0.3  # training between two looks, at least
SEGMENT_STEPS = 16384  # at most: length of the buffer that holds the losses of a segment
LOOKS = 50  # about so many, where that makes the segments longer


@dataclass(frozen=True)
class Budget:
    """Training time in seconds, or optimizer steps; exactly one of them.

    Example:
        >>> str(Budget(seconds=20.0)), str(Budget(steps=500))
        ('20s', '500steps')
    """

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        given = [x for x in (self.seconds, self.steps) if x is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError(
                "A budget is a positive number of seconds or of steps, not both: "
                f"got seconds={self.seconds}, steps={self.steps}."
            )

    def share(self, steps: int, seconds: float) -> float:
        """The share of the budget that so many steps, or so much time, use up."""
        if self.seconds is not None:
            return seconds / self.seconds
        assert self.steps is not None
        return steps / self.steps

    def in_words(self) -> str:
        """The budget of a run, for a reader.

        Example:
            >>> Budget(seconds=20.0).in_words()
            '20 s of training'
        """
        if self.seconds is not None:
            return f"{self.seconds:g} s of training"
        return f"{self.steps} steps"

    def __str__(self) -> str:
        return f"{self.seconds:g}s" if self.seconds is not None else f"{self.steps}steps"


class Pacer:
    """Counts steps and training time, and says how many steps to take next.

    Segments double from one step on, which resolves the fast start of a run, up to a length that
    keeps the looks in between rare.
    """

    def __init__(
        self, budget: Budget, steps: int = 0, seconds: float = 0.0, seconds_per_step: float = 0.0
    ) -> None:
        self.budget, self.steps, self.seconds = budget, steps, seconds
        self._seconds_per_step = seconds_per_step

    def spent(self) -> dict[str, int | float]:
        """What makes another `Pacer` of the same budget go on from here, as JSON values."""
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "seconds_per_step": self._seconds_per_step,
        }

    def add(self, steps: int, seconds: float) -> None:
        """So many steps were taken, in so much time."""
        self.steps += steps
        self.seconds += seconds
        self._seconds_per_step = seconds / steps

    @property
    def progress(self) -> float:
        """The share of the budget that is spent."""
        return self.budget.share(self.steps, self.seconds)

    @property
    def pace(self) -> float:
        """The share of the budget that one step takes, as far as is known."""
        return self.budget.share(1, self._seconds_per_step)

    def next_count(self) -> int:
        """Steps of the next segment; 0 at the end."""
        if not self.steps:
            return 1
        if self.budget.steps is not None:
            left = self.budget.steps - self.steps
            limit = -(-self.budget.steps // LOOKS)
        else:
            left = max(0, round((1 - self.progress) / self.pace))
            limit = round(max(1 / LOOKS, self.budget.share(0, SEGMENT_SECONDS)) / self.pace)
        return min(left, max(1, limit), self.steps, SEGMENT_STEPS)
