"""The command line, ``dagbump``: a module for each subject, and what they share.

`app` says which commands there are, `options` what they take. `install`, `bump`, `repair`, `history`, `run` and `demo`
are the commands; `connecting`, `filters`, `output`, `tables` and `exit_codes` serve them; `postponed` stands for what
only a command's work needs; `periodic_bump` is the engine room of ``dagbump run``.
"""
