"""A trained encoder in use: it turns signals, files and shards into embeddings and classes."""
