"""Raw signals to spectrograms ``[b t f c]``: configs that are functions, without parameters."""
