"""Configured values made into what the kernel keeps: cgroups, limits, devices, capabilities and the filter.

Nothing is gathered here: ``exec`` needs one of the modules and pays for one.
"""
