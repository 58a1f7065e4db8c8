"""Networks prepared for many evaluations."""
