"""Clicks: simulated, and drawn as maps."""
