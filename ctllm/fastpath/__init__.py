"""Every use of a private name of Twisted or autobahn, each with a public fallback."""
