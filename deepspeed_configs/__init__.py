"""DeepSpeed settings by name (``zero2`` is ``zero2.json``); a package only so that the files are installed with the code."""
