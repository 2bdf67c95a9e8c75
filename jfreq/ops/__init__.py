"""Signals as arrays: pure functions without parameters, configuration or implicit randomness."""
