"""Go 1.27's memory manager as a Python library."""
