"""The parts of `fastvit-bench inference`: the models, and what is measured of each."""
