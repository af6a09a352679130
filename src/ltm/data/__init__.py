"""Documents and tokens: what comes in from files, pages and pipes, and what models are given of it."""
