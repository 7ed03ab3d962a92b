"""Linear maps of a loaded module as functions, computed by the kernel that is fastest here."""
