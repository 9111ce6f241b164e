"""Image sets and their layouts on disk."""
