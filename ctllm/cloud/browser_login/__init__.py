"""Signing in a browser with an OpenID provider: the cloud is the OAuth client."""
