"""Trained encoders outside the training loop: the bundle, the runtime, and adapters on them."""
