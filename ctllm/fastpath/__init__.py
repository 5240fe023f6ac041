"""Private names of Twisted and autobahn; each use has a public fallback."""
