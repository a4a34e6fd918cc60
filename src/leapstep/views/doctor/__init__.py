"""The doctor's diagnosis as a page with figures."""
