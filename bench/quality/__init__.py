"""Sample quality: extractors and metrics."""
