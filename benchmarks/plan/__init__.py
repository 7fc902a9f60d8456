"""How long the full job takes, and what it needs: a model of a run, fed with measured or given rates.

`job` says what there is to do, `rates` how fast that goes, and `forecast` puts the two together for a number of GPUs;
`measure` takes the rates of this machine, and `check` holds the forecast against whole runs. docs/scaling.md has the
model in formulas.
"""
