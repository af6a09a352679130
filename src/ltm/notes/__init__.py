"""Notes: a store of what was said and read, the encoder that finds it, and the writer that speaks."""
