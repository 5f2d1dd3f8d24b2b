"""The command line, ``dagbump``: a module for each subject, and what they share.

`app` says which commands there are, `options` what they take. `install`, `bump`, `run` and `demo` are the commands;
`connecting`, `filters`, `output` and `exit_codes` serve them; `periodic_bump` is the engine room of ``dagbump run``.
"""
