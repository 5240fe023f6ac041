"""On the server: who is asking, and where is that user's proxy?"""
