"""A trained encoder in use: signals, files, folders and shards into embeddings and classes."""
