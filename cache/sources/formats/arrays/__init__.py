"""Read arrays of samples: HDF5, NumPy, MATLAB, UFF and Zarr.

`sets.py` tells which arrays are images and how their axes count, whatever the format, and is read first; `turned.py`
tells those that count frames by another axis. `base.py` holds what the readers of files in memory share; each format
has one file. `hdf5.py` keeps its file open and reads frame by frame, shown as `hdf5_images.py` reads its attributes.
Only `sources/registry.py` imports the readers.
"""
