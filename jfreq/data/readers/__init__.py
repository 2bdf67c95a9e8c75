"""Files of recordings, read or refused: sound, tables, archives of arrays."""
