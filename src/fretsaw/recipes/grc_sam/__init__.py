"""GrC-SAM: learn to segment without a prompt, foreground or classes, on top of a frozen encoder.

paper    GrC-SAM (paper 000), section A.4
command  fretsaw train grc_sam --set data=FOLDER --set classes=FILE --set out=runs/semantic       (label maps, classes grouped by a file)
         fretsaw train grc_sam --set data=FOLDER,FOLDER --set out=runs/binary                     (masks)
         add --set head=linear for the baseline: a 1 x 1 convolution on the frozen encoder
         on a GPU: --set device=cuda --set dtype=bfloat16 --set size=1024 --set width=256 --set views=0 --set unfreeze=5
data     DATA/images and DATA/masks (labels, annotations); DATA/classes.txt for label maps; lists of parts in `splits`, else a tenth each is held out
chosen   on the val part: the network with the highest mIoU (classes) or Dice (foreground) is stored as model.safetensors, which `fretsaw.load` takes by path

The encoder's features of a few fixed views of each image are stored once in half precision; then a step costs the generator and the decoder only.

Deviation: the encoder stays frozen unless `unfreeze` says after how many epochs it joins, 5 in the paper, which takes a GPU.

Deviation: views are fixed where features are stored: the whole image, its mirror image, and crops that are drawn once; `views=0` draws new ones as the paper
does.

Deviation: `width` is 64 in place of 256, so that a step takes a second or two on a CPU.
"""
