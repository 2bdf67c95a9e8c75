"""Encoders as the benchmarks of other projects call them: HEAR, X-ARES, S3PRL, MTEB.

``hear``, ``xares`` and ``s3prl`` import PyTorch, ``mteb`` imports MTEB; nothing else imports them.
"""
