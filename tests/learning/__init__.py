"""Claims about benchmarks that ask whether students learn."""
