"""Read DICOM by what its bytes show, not by what its header says.

Read `reader.py` first, then `pixels.py`, which opens a file at its pixels; `fragments.py` sorts compressed ones into
frames by what `streams.py` recognises, `palette.py` looks up colours, `codecs.py` adds decoders to pydicom's, `bits.py`
takes the bits in use. Of the header, which `header.py` reads, `polarity.py` tells what is dark, of each frame as
`groups.py` finds it told, `boxes.py` where images lie, `scale.py` how large a pixel is, `patient.py` whose file it is.
Others import `reader.py`.
"""
