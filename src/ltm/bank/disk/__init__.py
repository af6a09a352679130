"""A bank as files: what they say and whether it can be, one writer at a time, saving, loading, texts and merging."""
