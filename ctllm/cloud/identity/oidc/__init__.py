"""OpenID providers whose users may sign in: their metadata, their keys, and their tokens.

Nothing here is imported in a cloud without `cloud.providers`, and nothing in a proxy: PyJWT would
cost it 13 MB.
"""
