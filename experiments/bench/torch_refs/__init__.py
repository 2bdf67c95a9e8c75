"""The methods of the papers as a PyTorch user would write them; for the benches only.

Each is built from a method of jfreq that is bound, whose sizes it takes, and gets that method's
parameters, so that both can be compared before they are timed.
"""
