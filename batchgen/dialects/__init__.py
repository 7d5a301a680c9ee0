"""Which wire formats are spoken? One module each, of pure functions, beside what they share."""
