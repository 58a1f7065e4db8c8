"""Guidance: the search for the firing threshold and the gain that sample best."""
