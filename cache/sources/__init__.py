"""Where frames come from: listings of folders and manifests, and a reader for each kind of file."""
