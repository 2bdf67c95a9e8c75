"""Forms of operations of ``ops/`` and ``nn/`` that run faster on some hardware."""
