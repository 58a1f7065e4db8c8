"""A suite run: train, sample, meter and score each cell."""
