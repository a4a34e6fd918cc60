"""The diagnosis as an HTML page with figures."""
