"""Evaluates encoders: kNN, ridge and logistic probes, fine-tuning, baselines and intervals."""
