"""Kernels of our own that Numba compiles for this processor and XLA:CPU calls.

Only :mod:`jfreq.kernels.cpu.compiled` imports what is in here, when a program for this processor is
lowered: importing Numba and compiling take seconds.
"""
