"""Talk to the person at the terminal: progress, safe streams, and advice.

Read `streams.py` first: what may be written where, and how a name is shown. `progress.py` draws bars or plain lines;
`refusals.py` says what to do about an error of the system. Options and exit codes of the commands are
`cache/command_line.py`, which stands above recipes and storage; these modules stand below them.

Others import `ProgressBar`, `shown`, `shown_name`, `advice` and `refusal`; all rooms may.
"""
