"""The page on `hig_optax.diagnose`: its table of symptoms, and what it says of runs broken on purpose."""

import re
from collections.abc import Iterator

import jax

import hig_optax
from hig_optax.experiments.broken import BROKEN, Broken, Run

LEAF = re.compile(r"params(?:\[[^\]]*\])+")

HEAD = """# The doctor

`hig_optax.diagnose` reads the state of an optimizer and says what is going on, what it means, and what to
change:

```python
print(hig_optax.diagnose(state))  # any state of the package, with the chain or wrapper around it
print(hig_optax.diagnose(state, residual_fn, params, batch, grads))  # a closer look
```

Call it outside `jit`. It returns a tuple of findings (`symptom`, `evidence`, `meaning`, `remedy`, `kind`,
`numbers`), so that a program can act on it: `if diagnosis.faults: ...`. The states that a `jax.lax.scan`
returns stacked are read as the course of a run and say more than the last one alone; each member of a
`jax.vmap` is read by itself.

What follows is written by `python -m hig_optax.experiments doctor`. Do not edit it: the next run overwrites
it.
"""


def symptoms() -> str:
    """The table of symptoms, as Markdown: a list each, which a narrow screen shows as well as a wide one."""
    return "\n".join(
        f"### {symptom.name}{' (hint)' if symptom.kind == 'hint' else ''}\n\n"
        f"* **Shows**: {symptom.shows}.\n"
        f"* **Means**: {symptom.meaning}\n"
        f"* **Change**: {symptom.remedy}\n"
        for symptom in hig_optax.SYMPTOMS
    )


def diagnoses(run: Run) -> tuple[hig_optax.Diagnosis, hig_optax.Diagnosis, hig_optax.Diagnosis]:
    """What the doctor says of the last state, of all states, and with a closer look."""
    last = jax.tree.map(lambda x: x[-1], run.states)
    close = (run.residual_fn, run.params, run.batch, run.grads)
    return (
        hig_optax.diagnose(last),
        hig_optax.diagnose(run.states),
        hig_optax.diagnose(run.states, *close, **run.settings),
    )


def section(broken: Broken) -> str:
    """One run, and what is said of it."""
    last, course, close = map(_told, diagnoses(broken.run()))
    return (
        f"### {broken.name}\n\n{broken.what}\n\n"
        f"* **The last state** shows{last}\n"
        f"* **All states** show{course}\n"
        f"* **A closer look** shows{close}\n"
    )


def page() -> Iterator[str]:
    """The page, piece by piece: each run takes some seconds."""
    yield HEAD
    yield f"\n## Symptoms\n\nThe most serious first.\n\n{symptoms()}"
    yield "\n## Eleven broken runs\n\nEach is broken in one way, and all else is as it should be. "
    yield "Their code is in `hig_optax/experiments/broken.py`.\n\n"
    yield "\n".join(map(section, BROKEN))


def _told(diagnosis: hig_optax.Diagnosis) -> str:
    if not diagnosis:
        return " nothing."
    # Leaves as code: brackets side by side would be a link to Markdown.
    found = [
        f"*{finding.symptom}*: {LEAF.sub(lambda m: f'`{m[0]}`', finding.evidence)}."
        for finding in diagnosis
    ]
    return f" {found[0]}" if len(found) == 1 else "".join(f"\n    * {line}" for line in found)
