"""The shipped suites: one YAML file each."""
