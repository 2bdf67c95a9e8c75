"""Recordings to shards: decided, cut, resampled, written once."""
