"""Threshold guidance: the search for the threshold that samples best."""
