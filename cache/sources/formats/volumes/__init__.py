"""Read images that carry their geometry: NIfTI, MetaImage and NRRD.

`base.py` holds what the readers share: a volume in memory, its frames and its spacing. `nifti.py` reads through
nibabel; `metaimage.py` and `nrrd.py` through SimpleITK (`itk.py`), after the header was asked for the files that it
names. Frames come as they are stored, the fastest axis across and the next one down, as SimpleITK's arrays have them.
Only `sources/registry.py` imports the readers. Both libraries come with the extra `volumes`.
"""
