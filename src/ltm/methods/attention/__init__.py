"""Memory inside attention: methods whose layers look at keys and values of what was read."""
