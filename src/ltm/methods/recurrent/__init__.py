"""Recurrent memory: one state a file, on the base of `ltm.methods.recurrent.base`."""
