"""Fretsaw cuts things out of images: by itself, by click, or by name, at the image's own resolution."""
