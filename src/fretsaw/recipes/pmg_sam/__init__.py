"""PMG-SAM: learn to find and cut the object of an image without a prompt; U²-Net and the image encoder stay as they are.

paper    PMG-SAM (Sensors 2026, 26, 365), sections 4.3 and 4.7
command  fretsaw train pmg_sam --set data=FOLDER --set out=runs/pmg
         fretsaw train pmg_sam --set data=../shared/data --set sets=coco_mval,ccp,human_seg --set out=runs/pmg
camouflage  the same with --set data=COD10K --set start=runs/pmg/best.safetensors --set stage=cos (90 epochs, a tenth of the rate, halved when it stalls)
data     a folder with `images` and `masks` (a tenth is held out), or several sets by name with lists of their parts in DATA/splits

Three masks are compared with the truth: the final one at the size of the view, the pre-mask, and what the decoder makes of a coarse truth in the pre-mask's
place, which is how tiles of large images are refined.

Source: PMG-SAM (paper 001), section 4.3.

Deviation: the pre-mask is supervised as well, which the paper leaves to the decoder's gradient; without it the pre-mask need not look like a mask at all.
Deviation: a third term, the decoder on a coarse truth, prepares the high-resolution pathway; 0 leaves it out.
Deviation: numbers that the paper's text lost: rate 1e-4 (camouflage 1e-5), weight decay 1e-4, betas 0.9 and 0.999, steps of 0.5, rotations of 15 degrees.
"""
