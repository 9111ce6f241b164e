"""Blocks that several networks are made of; they know nothing of segmentation."""
