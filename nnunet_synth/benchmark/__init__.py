"""Do synthetic pairs help here? Arms, runs, statistics and a report."""

REPEATS = 3  # training sets of each size
