"""Questions about what was read, asked in text: where texts and questions come from, the arms, the tables."""
