"""From shards to batches: the batch of a step is a pure function of (seed, step)."""
