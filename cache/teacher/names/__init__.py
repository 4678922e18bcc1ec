"""Say what a teacher's name stands for: preset, another library's folder, hub.

Read `preset.py` and the table `presets.py` first, then `folders.py` with `transformers_config.py` (what a configuration
beside a file tells), `hub.py` (folders that have to be fetched) and `describe.py` (the table for people). Others import
`preset_settings`, `is_preset`, `PRESETS`, `folder_settings`, `is_described` and `hub_folder`.
"""
