"""Folders that Hugging Face transformers loads: its own AST, or a twin of the encoder in torch."""
