"""Methods that look passages up and answer from them."""
