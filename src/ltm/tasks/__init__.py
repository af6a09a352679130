"""Benchmarks: each makes examples and scores answers through the verbs alone, so that it runs for every method."""
