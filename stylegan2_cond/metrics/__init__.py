"""Is a generator any good, and are its samples new? A registry of metrics, each with its standard error.
