"""Named masks in the formats of other programs, and back: one file a format, a round trip through each is tested."""
