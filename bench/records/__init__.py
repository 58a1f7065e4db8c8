"""Records: one line of JSON for each cell."""
