"""Speed against the published way of running the same network; see conftest.py for how."""
