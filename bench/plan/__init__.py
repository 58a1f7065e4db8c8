"""The cells of a suite, and which of them are done."""
