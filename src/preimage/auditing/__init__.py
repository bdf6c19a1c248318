"""The audit: inversion, out-of-distribution and leak analysis of one classifier, in one report.

Stands above the jobs and calls them; nothing else in the package knows of it but the command line.
"""
