"""Metrics on disk, progress on the terminal, throughput, arithmetic, provenance."""
