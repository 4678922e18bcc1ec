"""Run real processes: commands, forked children, an S3 server behind a proxy, a browser."""
