"""The reference experiments: a table of trainings, each one run of `fastvit-train`, and what others reached.

`experiments` says what is trained at each scale, `data_sets` on what, and `cost` how long it takes. `runs` trains, and
`results` makes rows of that. `published` has the figures that ours stand next to.
"""
