"""Data sets, one file each; every file in this folder is a data set, unless its name begins with an underscore.

A data-set file needs no torch. It defines

- ``SUMMARY``: one line for ``--list``;
- ``NEEDS_DOWNLOAD``: whether it needs network access or files of the user;
- ``SETTINGS`` (optional): the settings of ``prepare`` with their defaults, for ``--dataset "file(setting=value)"``; a
  setting ``name`` may be written ``--dataset file:VALUE``;
- ``prepare(data_dir, cache, **settings) -> Prepared``: find or download the sources, turn them into arrays and store
  these with ``bench.data.cache.cached`` under a name that changes with the sources and settings. The ``DataInfo`` names
  in ``protocol`` a section of the presets if the data set has settings of its own.

A package can add a data set by an entry point in the group ``posterior_collapse_bench.datasets``.
"""
