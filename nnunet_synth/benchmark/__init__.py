"""Do synthetic pairs help here? Arms, runs, statistics and a report."""
