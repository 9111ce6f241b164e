"""fretsaw-tiny: SAM 2 Hiera-T cut down to a size that ships, then taught by the network that it was cut from.

paper    HRSAM (Huang et al. 2024), section 4 and appendix D, setting 2: distillation without labels
command  fretsaw train fretsaw_tiny --set photos=FOLDER --set out=runs/tiny
teacher  sam2-hiera-tiny, whose first two stages, prompt encoder and mask decoder the student keeps as they are
data     any folder of photos; no mask is read

    photo -> view (3, S, S) -> [stem: two stages, frozen] -> (192, S/8, S/8) -> third stage, narrower -> final (256, S/16, S/16)
                                     |                                                                        |
                                     +-> the two fine maps, the teacher's own                                 +-> against the teacher's

What is frozen is computed once a view and kept on disk together with the teacher's embedding, so that a step costs the third stage and the decoder alone.

Deviation: the student is the teacher without its fourth stage and with a narrower third one, in place of HRSAM's network: what it starts from is fitted, so
that a CPU's hour is enough to teach it.
"""
