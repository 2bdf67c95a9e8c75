"""Recordings to shards, and shards to batches. The only room that imports TensorFlow, lazily."""
