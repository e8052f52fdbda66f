"""Starting things: the ``unipixel`` command, processes of a training run, the dry run, recipes. No model code lives here."""

__version__ = "0.1.0"
