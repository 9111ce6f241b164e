"""Masks for unlabelled photos: U²-Netp's map, sharpened by the click decoder, kept only where both agree.

paper    none; PMG-SAM (Sensors 2026, 26, 365) trains on people's masks, of which a small machine's photos have few
command  fretsaw train pseudo_masks --set photos=FOLDER --set out=runs/pseudo
         fretsaw train pmg_sam --set data=... --set pseudo=runs/pseudo
result   `out`/images and `out`/masks, and `out`/journal.jsonl with every photo's figures

A photo that the journal names is not looked at again, whether it was kept or not.

Source: PMG-SAM (paper 001), section 4.7.4, for the idea of a mask that guides SAM's decoder; the rule is this project's own.
"""
