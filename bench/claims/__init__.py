"""Claims of the literature, answered by the committed records."""
