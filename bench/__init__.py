"""The comparison harness: suites, data, metrics, energy, records and tables."""
