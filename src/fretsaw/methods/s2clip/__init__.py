"""S2CLIP: cut by name, without training; and Trident, its parent, and plain CLIP, their floor, from the same parts.

Read in this order:

    words.py      class names, synonyms, background words
    text.py       words -> text embeddings
    entropy.py    which of CLIP's layers separate things in this image
    affinity.py   which patches belong together: DINO's affinity, CLIP's own, and CLIP's layers one after the other
    splice.py     windows -> one map of features; SAM's correlation spreads them over the whole image
    maps.py       features x text embeddings -> labels and probabilities, in bands
    regions.py    label map -> regions with box and peak point
    refine.py     regions -> SAM's masks -> label map
    model.py      the class on top; build.py makes it from weight files
"""
