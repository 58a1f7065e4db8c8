"""Compiled code of the neurons and convolutions, and the operators that call it."""
