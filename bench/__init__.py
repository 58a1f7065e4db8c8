"""The comparison harness: suites, data, metrics, energy, records and tables."""

import sddpm  # noqa: F401  # before any part of this package loads torch: it settles the threads
