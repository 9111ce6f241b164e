"""PMG-SAM: a pre-mask says where the object is, a decoder that it guides says exactly what belongs to it; no prompt is needed.

    pixels --Hiera--> stages 1-4 ----\\                                          /--> FPN --> image embedding --\\
                                      pairs --DRFM--> fused --FeatRefiner--> pre_mask --patches--> tokens --BAIM, twice--> output token, image
    pixels --U²-Net--> levels 1-6 ---/                                          \\--> stages 1, 2 ----injected while upscaling--> mask_logits

`pairing.py` matches the two frozen networks, `drfm.py` fuses them, `feat_refiner.py` makes the pre-mask, `decoder.py` refines it, `model.py` puts them
together, `build.py` makes the variants of the paper's ablations, `cut.py` is the automatic cut at an image's own size, `instances.py` splits what touches.

Source: PMG-SAM (paper 001), figure 2.
"""
