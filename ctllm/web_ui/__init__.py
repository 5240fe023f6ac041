"""The files of the chat page, as cloud and desktop serve them."""
