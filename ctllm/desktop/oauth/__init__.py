"""OAuth 2.0 and OpenID Connect for a public client, sans-IO: requests and responses are values.

Everything that a cloud or a provider says is validated here, because both may be hostile.
"""
