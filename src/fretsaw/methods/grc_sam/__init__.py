"""GrC-SAM: a coarse mask from the encoder's own attention, refined inside active windows, becomes the prompt of SAM's decoder. Read model.py first.

Source: Granular computing-driven SAM (paper 000), sections 3.2 to 3.5, appendix A.3 to A.5.
"""
