"""What every method is measured against: the backbone alone, and counts of token ids."""
