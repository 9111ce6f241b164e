"""SAM-REF: look at the image again, with the prompts and the coarse mask in hand, and mend the mask.

    pixels ----image branch----+                                    (once per image)
    embedding ----upscaled-----+--> base
    disks, coarse logits --prompt branch--> + --N blocks--> F(N) --heads--> error map, detail map --eq. 1--> global mask
    F(N), coarse logits --RoIAlign around the last click--> heads --eq. 2--> local mask, pasted onto the previous mask
    the error region grew? local : global

`networks.py` has the two refiners, `places.py` where they look and how crops are put back, `model.py` the choice between them.

Source: SAM-REF (Yu et al. 2024), section 3, figure 2.
"""
