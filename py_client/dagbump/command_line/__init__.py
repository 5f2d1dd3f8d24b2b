"""The command line ``dagbump``.

`app` lists the commands, and `options` has their options. The commands are in `install`, `check`, `bump`, `repair`,
`history`, `run`, `holders`, `versions` and `demo`. They share `connecting`, `filters`, `output`, `tables` and
`exit_codes`. `postponed` delays slow imports. `periodic_bump` is the loop of ``dagbump run``.
"""
