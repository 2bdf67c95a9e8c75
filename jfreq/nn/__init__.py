"""Flax modules that know no task: encoders, heads, predictors, attention."""
