"""From recordings to shards: windows are chosen, cut, resampled and written."""
