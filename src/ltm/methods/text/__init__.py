"""Methods that remember text: a log of events, notes derived from it, a writer that answers from what is recalled."""
