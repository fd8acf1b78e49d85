"""Training a generator: losses, moving average, checkpoints, telemetry, and the loop around them."""
