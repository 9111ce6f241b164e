"""The recipes of `fretsaw train NAME`: one folder each.

A folder's `__init__.py` says what the recipe trains, by which paper and command, and where it differs from the paper. Its `run.py` offers the three names that
the command line uses:

    Config                  a dataclass of settings, each of which `--set key=value` can change
    length(config)          how many steps, or photos, the run takes at most
    run(config, watcher)    make the run, or continue it; returns the number of steps made so far

The other files, in the order in which to read them: `config.py`, `data.py`, `losses.py`, `steps.py` (or `stages.py`), `validation.py`, `files.py`.
Recipes do not import each other. What two of them need lies in `training/`.
"""
