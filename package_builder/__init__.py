"""Builds what people download: `make packages` writes it into dist/.

Two builds of one commit have the same bytes. Everything that goes into a package is locked: the
commit, the versions and hashes of dependencies, and the time, which is that of the commit.
"""
