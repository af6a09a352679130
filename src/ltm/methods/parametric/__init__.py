"""Memory in weights: one way of changing a backbone a file, on the base of `ltm.methods.parametric.base`."""
