"""Budgets of keys and values: one rule a file, on the base of `ltm.methods.cache.base`."""
