"""Runs on the problems of `hig_optax.problems`: training, comparison, timing, pictures, results.

One module per thing that can be done, none imported until asked for:

* `methods`: what can train a problem, by name, with its settings; `adjustments` to them;
* `train`: one training run inside jitted loops, returned as a `history.History`;
* `views`: what a run records of its network besides losses, for the figures of its problem;
* `compare`: methods × seeds at equal wall time or equal steps, kept on disk, with table and figures;
* `figures`: a module per figure;
* `study`, `claims`, `criteria`, `results`: every experiment of the sources, what they claim, and the
  page that says what was measured;
* `bench`: what one step costs, part by part.

On the command line: ``python -m hig_optax.experiments --help``. Needs the extra ``experiments``.
"""
