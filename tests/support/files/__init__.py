"""Make files as scanners, datasets and programs write them, and damage them; read them again."""
