"""Shards on disk: what they hold, and how their rows are written and read."""
