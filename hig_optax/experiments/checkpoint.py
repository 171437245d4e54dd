"""A run in progress, kept so that a kill at any instant costs little and changes nothing."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

EVERY_SECONDS = 5.0  # of wall time; a save takes some 0.1 s, which are not training time

Tree = Any


@dataclass(frozen=True)
class Saved:
    """All that a run needs to go on.

    Attributes:
        identity: Stands for the program and the data: a run goes on only with its own.
        step: Optimizer steps so far.
        carry: What one step hands to the next: tree of arrays.
        record: What was recorded on the way: nested dict of arrays, none of them empty.
        facts: The rest, as JSON values; floats come back to the last digit.
    """

    identity: str
    step: int
    carry: Tree
    record: Mapping[str, Any]
    facts: Mapping[str, Any]


class Checkpoint:
    """A folder that holds the last state of one run, whole or not at all.

    Orbax writes every save beside the last one, under another name until it is complete, and removes the
    older one after that: whenever the process ends, the newest complete save is found. Saving blocks until it
    is done, so that nothing of it runs beside the training.

    Args:
        directory: Where to; made when it is needed.
        every: Seconds of wall time between two saves, at least.
    """

    def __init__(self, directory: Path, *, every: float) -> None:
        self._directory, self._every = directory.absolute(), every
        self._last = time.monotonic()
        self._opened: ocp.CheckpointManager | None = None

    @property
    def is_due(self) -> bool:
        """Whether so much time has passed since the last save, or the beginning."""
        return time.monotonic() - self._last >= self._every

    def save(self, saved: Saved) -> None:
        """Keep this state in place of an earlier one."""
        items = ocp.args.Composite(
            carry=ocp.args.StandardSave(saved.carry),
            record=ocp.args.StandardSave(saved.record),
            facts=ocp.args.JsonSave({**saved.facts, "identity": saved.identity}),
        )
        self._manager().save(saved.step, args=items)
        self._last = time.monotonic()

    def restore(self, like: Tree, identity: str) -> Saved | None:
        """The last state; None where there is none of this identity.

        Args:
            like: A carry of the same structure, shapes and dtypes.
            identity: That of the state wanted.
        """
        if not self._directory.exists():
            return None
        manager = self._manager()
        step = manager.latest_step()
        if step is None:
            return None
        facts = manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
        if facts.pop("identity") != identity:
            return None
        items = ocp.args.Composite(
            carry=ocp.args.StandardRestore(like), record=ocp.args.StandardRestore()
        )
        found = manager.restore(step, args=items)
        return Saved(identity, step, found.carry, found.record, facts)

    def discard(self) -> None:
        """Remove what was kept."""
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def close(self) -> None:
        """Let go of the folder; it is opened again when needed."""
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def _manager(self) -> ocp.CheckpointManager:
        if self._opened is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=1, cleanup_tmp_directories=True, enable_async_checkpointing=False
            )
            self._opened = ocp.CheckpointManager(self._directory, options=options)
        return self._opened
