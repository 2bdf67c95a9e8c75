"""A trained encoder as files: the bundle, and the StableHLO program beside it."""
