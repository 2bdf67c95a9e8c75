"""Forms of the operations of ``ops/`` and ``nn/`` that are faster on one kind of hardware."""
