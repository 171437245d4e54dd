"""Runs on the problems of `hig_optax.problems`: training, comparison, timing, pictures.

One module per thing that can be done, none imported until asked for:

* `methods`: what can train a problem, by name, with its settings;
* `train`: one training run inside jitted loops, returned as a `history.History`;
* `compare`: methods × seeds at equal wall time or equal steps, kept on disk, with table and figures;
* `bench`: what one step costs, part by part;
* `plots`: the figures.

On the command line: ``python -m hig_optax.experiments --help``. Needs the extra ``experiments``.
"""
