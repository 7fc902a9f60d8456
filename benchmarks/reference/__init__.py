"""The reference experiments: what `fastvit-bench reference` trains, on which data, and at which cost.

`data_sets` makes the data that the experiments need, and `cost` says before they start how long they take.
"""
