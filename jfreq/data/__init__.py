"""Recordings to shards, and shards to batches. The only package that imports TensorFlow, lazily."""
