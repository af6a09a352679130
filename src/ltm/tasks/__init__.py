"""Benchmarks: each makes examples and scores answers through the five verbs alone, so that it runs for every method."""
