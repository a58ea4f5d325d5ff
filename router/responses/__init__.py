"""``/v1/responses``, OpenAI's newer API, on what serves chats. Nothing is stored between two requests."""
