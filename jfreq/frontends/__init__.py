"""Raw signals to spectrograms ``[b t f c]``: configs that are functions, without parameters.

:class:`jfreq.frontends.frontend.Frontend` says what they have in common.
"""
