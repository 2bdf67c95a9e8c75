"""How good frozen features are: kNN, ridge and logistic probes with baselines and intervals."""
