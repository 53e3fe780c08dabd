"""OpenVZ's containers, as its talk of 2012 describes them, on an unpatched Linux kernel."""

__version__ = "5.0"
