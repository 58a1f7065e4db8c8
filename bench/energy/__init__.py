"""Energy: operations counted while a network samples, and their prices."""
