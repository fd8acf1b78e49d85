"""The whole way on data that comes with a dependency."""
